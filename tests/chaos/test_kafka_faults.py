"""Kafka dies, stands still, comes back late, loses a topic: deliveries are acknowledged all along, and arrive."""

from __future__ import annotations

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it exports them without saying so
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from tests.chaos.framework import Chaos, topics
from tests.chaos.proxy import Proxy
from tests.support.brokers import ApacheKafka
from tests.support.daemon import Daemon, Load, wait_for
from tests.support.delivery_checker import read_published


async def test_kafka_killed_and_restarted(chaos: Chaos, victim: ApacheKafka) -> None:
    """A power cut of Kafka in the middle of the load delays what was acknowledged, and no more."""
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(1000, 6000), rate=chaos.scaled(400, 250))
        for _ in range(chaos.scaled(1, 3)):
            chaos.wait_for_acknowledged(daemon, 300)
            victim.kill()
            chaos.pause(0.5, 2)
            victim.start()
        await chaos.verify(daemon)


async def test_kafka_restarted_in_order(chaos: Chaos, victim: ApacheKafka) -> None:
    """A rolling restart, as an upgrade makes it, delays what was acknowledged, and no more."""
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(1000, 4000), rate=400)
        chaos.wait_for_acknowledged(daemon, 300)
        victim.stop()
        victim.start()
        await chaos.verify(daemon)


async def test_kafka_frozen(chaos: Chaos, victim: ApacheKafka) -> None:
    """A Kafka whose connections are open and silent, beyond the delivery timeout, delays events and loses none."""
    with chaos.bridge(kafka_delivery_timeout_seconds=2) as daemon:
        chaos.load(daemon, chaos.scaled(1000, 5000), rate=chaos.scaled(500, 300))
        chaos.wait_for_acknowledged(daemon, 300)
        victim.freeze()
        time.sleep(chaos.scaled(4, 12))  # beyond the delivery's time-out
        victim.thaw()
        await chaos.verify(daemon)


async def test_batches_too_large_behind_a_frozen_kafka(chaos: Chaos, victim: ApacheKafka) -> None:
    """Batches that are collected while Kafka is frozen and rejected when it responds are sent smaller, in order."""
    admin = AdminClient({"bootstrap.servers": chaos.bootstrap_servers})
    with chaos.bridge(kafka_delivery_timeout_seconds=2) as daemon:
        await asyncio.to_thread(chaos.load(daemon, 100).finish)
        wait_for(daemon.drained)
        entry = ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)
        limits = [
            ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
            for name in topics(chaos.prefix)
        ]
        for done in admin.incremental_alter_configs(limits).values():
            done.result(30)
        chaos.load(daemon, chaos.scaled(1000, 5000), rate=chaos.scaled(500, 300))
        chaos.wait_for_acknowledged(daemon, 100)
        victim.freeze()
        time.sleep(chaos.scaled(4, 12))
        victim.thaw()
        await chaos.verify(daemon)


async def test_kafka_absent_for_long(chaos: Chaos, proxy: Proxy) -> None:
    """All is acknowledged while there is no Kafka, over a restart of the daemon too, and is published when there is."""
    proxy.mode = "down"
    with chaos.bridge(f"127.0.0.1:{proxy.port}") as daemon:
        chaos.load(daemon, chaos.scaled(1000, 10_000)).finish()
        daemon.kill()
        daemon.start()
        time.sleep(chaos.scaled(1, 5))
        proxy.mode = "pass"
        await chaos.verify(daemon)


async def test_topic_deleted_and_restored(chaos: Chaos) -> None:
    """A topic deleted under load parks its own events; the others flow; its events follow when it is back."""
    missing = f"{chaos.prefix}video.status.repackaged"
    with chaos.bridge() as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(300, 2000)).finish)
        wait_for(daemon.drained)
        earlier = read_published(chaos.bootstrap_servers, [missing])  # Kafka deletes them with the topic
        admin = AIOKafkaAdminClient(bootstrap_servers=chaos.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_topics([missing])
            load = chaos.load(daemon, chaos.scaled(700, 3000))
            await asyncio.to_thread(load.finish)
            parked = await asyncio.to_thread(parked_alone, chaos, daemon, load, missing)
            chaos.load(daemon, chaos.scaled(1500, 3000), rate=500)
            chaos.wait_for_acknowledged(
                daemon, 300
            )  # the topic returns between the events of an asset: their order could change
            await admin.create_topics([NewTopic(missing, 3, 1)])
        finally:
            await admin.close()
        await chaos.verify(daemon, earlier=earlier, note=f"{parked} parked")


async def test_authorization_taken_away_and_given_back(chaos: Chaos) -> None:
    """A topic that the bridge may no longer write to parks its own events; the others flow; its events follow."""
    denied = f"{chaos.prefix}video.status.repackaged"
    admin = AdminClient({"bootstrap.servers": chaos.bootstrap_servers})
    rule = (ResourceType.TOPIC, denied, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    # Seen, but not written: with a rule on a topic, all that no rule allows is forbidden.
    rules = [
        AclBinding(*rule, AclOperation.WRITE, AclPermissionType.DENY),
        AclBinding(*rule, AclOperation.ALL, AclPermissionType.ALLOW),
    ]
    with chaos.bridge() as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(100, 2000)).finish)
        wait_for(daemon.drained)
        for done in admin.create_acls(rules).values():
            done.result(30)
        load = chaos.load(daemon, chaos.scaled(700, 3000))
        await asyncio.to_thread(load.finish)
        parked = await asyncio.to_thread(parked_alone, chaos, daemon, load, denied)
        chaos.load(daemon, chaos.scaled(1500, 3000), rate=500)
        chaos.wait_for_acknowledged(daemon, 300)
        everything = AclBindingFilter(*rule[:3], None, None, AclOperation.ANY, AclPermissionType.ANY)  # type: ignore[arg-type]
        for removed in admin.delete_acls([everything]).values():
            assert removed.result(30)
        await chaos.verify(daemon, note=f"{parked} parked")


def parked_alone(chaos: Chaos, daemon: Daemon, load: Load, topic: str) -> int:
    """Wait until a load's events of one topic are parked and all others on Kafka, and return how many those are.

    Where nothing is left in the journal instead, the verdict says what became of them.
    """
    parked = [each for each in load.acknowledged() if topic.endswith(each["type"])]
    assert parked
    wait_for(lambda: daemon.status()["journal"]["deliveries"] in {0, len(parked)}, 60, "the others' flow")
    if not daemon.drained():
        assert set(daemon.status()["journal"]["parked"]) == {topic}
        assert read_published(chaos.bootstrap_servers, [name for name in topics(chaos.prefix) if name != topic])
    return len(parked)
