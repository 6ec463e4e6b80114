"""What one topic or one event does to the others, on Apache Kafka: nothing."""

from __future__ import annotations

import base64
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.contract.schemas import Contract
from tests.support.brokers import ApacheKafka
from tests.support.daemon import Daemon, wait_for
from tests.support.delivery_checker import header, read_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.brokers import Broker

READY = "video.status.ready"


def body(number: int, asset: str = "a1", **fields: Any) -> bytes:
    """Return the body of a ready event."""
    return orjson.dumps({"type": READY, "asset_id": asset, "progress": number % 100, "title": str(number), **fields})


@asynccontextmanager
async def admin_of(bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect an admin client."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create(bootstrap_servers: str, prefix: str, **configs: dict[str, str]) -> None:
    """Create all topics with one partition; `configs` by event type, with _ in place of . and -."""
    names = {
        topic.event_type.replace(".", "_").replace("-", "_"): topic for topic in Contract.load(prefix).topics.values()
    }
    async with admin_of(bootstrap_servers) as admin:
        await admin.create_topics(
            [NewTopic(topic.name, 1, 1, topic_configs=configs.get(name, {})) for name, topic in names.items()]
        )


async def titles(bootstrap_servers: str, topic: str) -> list[int]:
    """Return the titles of a topic's records, as numbers, the first of each only."""
    values = [orjson.loads(record.value) for record in await read_all(bootstrap_servers, [topic])]
    return list(dict.fromkeys(int(value["title"]) for value in values))


async def test_order_is_kept_behind_a_batch_that_is_too_large_for_a_frozen_kafka(
    kafka_libraries: Path, tmp_path: Path, prefix: str
) -> None:
    """Events of one asset that were collected while Kafka was frozen are in order, though their batch is rejected."""
    with ApacheKafka(kafka_libraries, tmp_path / "kafka") as kafka:
        await create(kafka.bootstrap_servers, prefix, video_status_ready={"max.message.bytes": "200000"})
        settings = {"topics_provision": "off", "kafka_delivery_timeout_seconds": 2}
        with Daemon(tmp_path, kafka.bootstrap_servers, prefix, **settings) as daemon:
            assert daemon.post(body(0)).status == 200
            wait_for(daemon.drained, 60)
            kafka.freeze()
            for number in range(1, 201):
                assert daemon.post(body(number, description="x" * 3000)).status == 200
            time.sleep(3)  # beyond the producer's time-out
            kafka.thaw()
            wait_for(daemon.drained, 90)
            assert await titles(kafka.bootstrap_servers, f"{prefix}{READY}") == list(range(201))
            assert not await read_all(kafka.bootstrap_servers, [f"{prefix}dead-letter"])


async def test_order_is_kept_behind_the_first_batch_of_a_producer_when_it_is_too_large(
    apache_kafka: Broker, tmp_path: Path, prefix: str
) -> None:
    """A producer that Kafka knows nothing of yet: Kafka would accept its second batch after rejecting the first."""
    await create(apache_kafka.bootstrap_servers, prefix, video_status_ready={"max.message.bytes": "200000"})
    with Daemon(tmp_path, "127.0.0.1:1", prefix, topics_provision="off") as daemon:
        for number in range(200):
            assert daemon.post(body(number, description="x" * 3000)).status == 200
        daemon.stop()
        daemon.settings["kafka_bootstrap_servers"] = apache_kafka.bootstrap_servers
        daemon.start()
        wait_for(daemon.drained, 60)
    assert await titles(apache_kafka.bootstrap_servers, f"{prefix}{READY}") == list(range(200))


async def test_deleted_topic_is_parked_alone_within_seconds(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """A topic deleted under a running daemon is not created by it and is not reported as an outage of Kafka."""
    topic = f"{prefix}{READY}"
    await create(apache_kafka.bootstrap_servers, prefix)
    async with admin_of(apache_kafka.bootstrap_servers) as admin:
        with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, topics_provision="off") as daemon:
            assert daemon.post(body(0)).status == 200
            wait_for(daemon.drained, 60)
            await admin.delete_topics([topic])
            assert daemon.post(body(1)).status == 200
            assert daemon.post(b'{"type": "unheard of"}').status == 200
            wait_for(lambda: daemon.status()["journal"]["parked"] == {topic: 1}, 20, "parking")
            wait_for(lambda: daemon.status()["journal"]["deliveries"] == 1, 20, "the other event on Kafka")
            assert not daemon.logged("kafka_disconnected")
            (line,) = daemon.logged("topic_blocked")
            assert line["topic"] == topic
            assert topic not in await admin.list_topics(), "the bridge created the topic"
            await admin.create_topics([NewTopic(topic, 1, 1)])
            wait_for(daemon.drained, 60)
            assert await titles(apache_kafka.bootstrap_servers, topic) == [1]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max.message.bytes": "20000"}, {"body_bytes": 100_000, "body_base64": ""}),
        ({"cleanup.policy": "compact"}, {"body_base64": base64.b64encode(b"x" * 100_000).decode()}),
    ],
    ids=["small", "compacted"],
)
async def test_dead_letter_that_its_topic_rejects_stops_nothing(
    apache_kafka: Broker, tmp_path: Path, prefix: str, config: dict[str, str], expected: dict[str, Any]
) -> None:
    """A dead letter that is too large for its topic is published without its body; where a key is needed, with one."""
    await create(apache_kafka.bootstrap_servers, prefix, dead_letter=config)
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, topics_provision="off") as daemon:
        assert daemon.post(b"x" * 100_000).status == 200
        assert daemon.post(body(1)).status == 200
        wait_for(daemon.drained, 60)
        assert daemon.metric("bridge_kafka_producer_restarts_total") <= 10
    (dead,) = await read_all(apache_kafka.bootstrap_servers, [f"{prefix}dead-letter"])
    value = orjson.loads(dead.value)
    assert value["reason"] == "invalid_json"
    assert {name: value.get(name) for name in expected} == expected
    assert await titles(apache_kafka.bootstrap_servers, f"{prefix}{READY}") == [1]


async def test_parked_event_that_becomes_a_dead_letter_does_not_wait_for_a_missing_dead_letter_topic(
    apache_kafka: Broker, tmp_path: Path, prefix: str
) -> None:
    """A topic that rejects one of its parked events gets the others in order, without a dead-letter topic too."""
    topic, dead = f"{prefix}{READY}", f"{prefix}dead-letter"
    async with admin_of(apache_kafka.bootstrap_servers) as admin:
        with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, topics_provision="off") as daemon:
            for number in range(20):
                size = 30_000 if number == 7 else 10
                assert daemon.post(body(number, description="x" * size)).status == 200
            wait_for(lambda: daemon.status()["journal"]["parked"] == {topic: 20}, 30, "parking")
            await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "20000"})])
            wait_for(lambda: daemon.status()["journal"]["parked"] == {dead: 1}, 60, "the dead letter's parking")
            await admin.create_topics([NewTopic(dead, 1, 1)])
            wait_for(daemon.drained, 60)
    assert await titles(apache_kafka.bootstrap_servers, topic) == [number for number in range(20) if number != 7]
    assert len(await read_all(apache_kafka.bootstrap_servers, [dead])) == 1


@pytest.mark.parametrize("provision", ["off", "create"])
async def test_topic_that_rejects_old_records_gets_them_with_a_later_time(
    apache_kafka: Broker, tmp_path: Path, prefix: str, provision: str
) -> None:
    """An event pending for longer than `message.timestamp.before.max.ms` is published; `ce_time` is the receipt."""
    topic = f"{prefix}{READY}"
    await create(apache_kafka.bootstrap_servers, prefix, video_status_ready={"message.timestamp.before.max.ms": "2000"})
    with Daemon(tmp_path, "127.0.0.1:1", prefix, topics_provision=provision) as daemon:
        for number in range(20):
            assert daemon.post(body(number)).status == 200
        daemon.stop()
        time.sleep(3)
        daemon.settings["kafka_bootstrap_servers"] = apache_kafka.bootstrap_servers
        daemon.start()
        wait_for(daemon.drained, 60)
        assert not daemon.logged("topic_blocked")
    records = await read_all(apache_kafka.bootstrap_servers, [topic])
    assert [int(orjson.loads(record.value)["title"]) for record in records] == list(range(20))
    received_s = time.time() - records[0].timestamp / 1000
    assert received_s < 120
    assert all(header(record, "ce_time") for record in records)


async def test_unusual_timestamps_do_not_stop_the_daemon(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """A leap second, the year 0 and numbers out of range are published or dead-lettered; the daemon continues."""
    await create(apache_kafka.bootstrap_servers, prefix)
    times = ["2016-12-31T23:59:60.000Z", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59Z", -1, 0, 2**63, 1e300]
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, topics_provision="off") as daemon:
        for created_at in times:
            sent = {"type": "video.status.created", "asset_id": "a1", "created_at": created_at}
            assert daemon.post(orjson.dumps(sent)).status == 200
        assert daemon.post(body(1)).status == 200
        wait_for(daemon.drained, 60)
        assert daemon.stop() == 0
    topics = [f"{prefix}video.status.created", f"{prefix}dead-letter"]
    assert len(await read_all(apache_kafka.bootstrap_servers, topics)) == len(times)
