"""Kafka dies, stands still, comes back late, loses a topic: deliveries are acknowledged all along, and arrive."""

from __future__ import annotations

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.brokers import ApacheKafka
from tests.chaos.framework import Chaos, topics
from tests.checker import read_all
from tests.daemon import wait_for


async def test_kafka_killed_and_restarted(chaos: Chaos, victim: ApacheKafka) -> None:
    """A power cut of Kafka in the middle of the load delays what was acknowledged, and no more."""
    with chaos.bridge() as daemon:
        load = chaos.load(daemon, chaos.scaled(2000, 8000), rate=400)
        for _ in range(chaos.scaled(1, 3)):
            already = load.acknowledged_so_far()
            wait_for(lambda already=already: load.acknowledged_so_far() > already + 300)
            victim.kill()
            chaos.pause(0.5, 2)
            victim.start()
        await chaos.verdict(daemon)


async def test_kafka_restarted_in_order(chaos: Chaos, victim: ApacheKafka) -> None:
    """A rolling restart, as an upgrade makes it, delays what was acknowledged, and no more."""
    with chaos.bridge() as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 4000), rate=400)
        wait_for(lambda: load.acknowledged_so_far() > 300)
        victim.stop()
        victim.start()
        await chaos.verdict(daemon)


async def test_kafka_frozen(chaos: Chaos, victim: ApacheKafka) -> None:
    """A Kafka whose connections are open and silent, beyond the producer's patience, delays and loses nothing."""
    with chaos.bridge(kafka_delivery_timeout_seconds=5) as daemon:
        load = chaos.load(daemon, chaos.scaled(2000, 6000), rate=chaos.scaled(500, 200))
        for _ in range(chaos.scaled(1, 2)):
            already = load.acknowledged_so_far()
            wait_for(lambda already=already: load.acknowledged_so_far() > already + 300)
            victim.freeze()
            time.sleep(chaos.scaled(3, 13))  # on either side of the delivery's time-out
            victim.thaw()
        await chaos.verdict(daemon)


async def test_kafka_absent_for_long(chaos: Chaos, victim: ApacheKafka) -> None:
    """All is acknowledged while there is no Kafka, over a restart of the daemon too, and is published when there is."""
    victim.stop()
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(1500, 20_000)).finish()
        daemon.kill()
        daemon.start()
        time.sleep(chaos.scaled(1, 20))
        assert daemon.status()["journal"]["deliveries"] == chaos.scaled(1500, 20_000)
        victim.start()
        await chaos.verdict(daemon)


async def test_topic_deleted_and_restored(chaos: Chaos) -> None:
    """A topic deleted under load parks its own events; the others flow; its events follow when it is back."""
    missing = f"{chaos.prefix}video.status.ready"
    with chaos.bridge() as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(500, 2000)).finish)
        wait_for(daemon.drained)
        earlier = await read_all(chaos.bootstrap_servers, [missing])  # Kafka deletes them with the topic
        admin = AIOKafkaAdminClient(bootstrap_servers=chaos.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_topics([missing])
            load = chaos.load(daemon, chaos.scaled(1000, 4000))
            await asyncio.to_thread(load.finish)
            wait_for(lambda: set(daemon.status()["journal"]["parked"]) == {missing}, 60, "parking")
            parked = [each for each in load.acknowledged() if each["type"] == "video.status.ready"]
            wait_for(lambda: daemon.status()["journal"]["deliveries"] == len(parked), 60, "the others' flow")
            others = await read_all(chaos.bootstrap_servers, [name for name in topics(chaos.prefix) if name != missing])
            assert others, "the other topics did not flow"
            await admin.create_topics([NewTopic(missing, 3, 1)])
        finally:
            await admin.close()
        await chaos.verdict(daemon, earlier=earlier, note=f"{len(parked)} parked")
