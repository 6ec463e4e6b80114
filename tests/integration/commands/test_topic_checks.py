"""A running daemon and its topics, on a Kafka that creates topics on request: missing, deleted and edited ones."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.contract.schemas import Contract
from bridge.operations.topic_reader import Reader, open_reader
from tests.support.brokers.apache import free_port
from tests.support.daemon import Daemon, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.brokers.guarded import GuardedKafka

CREATED = b'{"type": "video.status.created", "asset_id": "5fd088e0a47da8246f1fb756"}'
READY = b'{"type": "video.status.ready", "asset_id": "5fd088e0a47da8246f1fb756"}'


@pytest.fixture
async def admin(guarded_kafka: GuardedKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect as the administrator."""
    client = AIOKafkaAdminClient(bootstrap_servers=guarded_kafka.node.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


async def create_topics(admin: AIOKafkaAdminClient, prefix: str, *, without: str = "", **config: str) -> None:
    """Create the contract's topics with this configuration in addition to the contract's."""
    await admin.create_topics(
        [
            NewTopic(topic.name, 2, 1, topic_configs={**topic.config, **config})
            for topic in Contract.load(prefix).topics.values()
            if topic.name != prefix + without
        ]
    )


async def partitions(admin: AIOKafkaAdminClient, topic: str) -> int | None:
    """Return the number of partitions of a topic, None if it does not exist; creates none."""
    for found in await admin.describe_topics():
        if found["topic"] == topic:
            return len(found["partitions"])
    return None


async def test_verify_accepts_deliveries_and_parks_only_the_missing_topic(
    guarded_kafka: GuardedKafka, admin: AIOKafkaAdminClient, tmp_path: Path, prefix: str
) -> None:
    """An edited retention is a warning and a metric; a missing topic parks its events and is not created."""
    await create_topics(admin, prefix, without="video.status.ready", **{"retention.ms": "5000000"})
    settings: dict[str, Any] = {"topics_provision": "verify", "topics_partitions": 2}
    with Daemon(tmp_path, guarded_kafka.node.bootstrap_servers, prefix, **settings) as daemon:
        assert daemon.post(READY).status == 200
        assert daemon.post(CREATED).status == 200
        missing = prefix + "video.status.ready"
        wait_for(lambda: daemon.status()["journal"]["parked"] == {missing: 1}, 60, "the parked event")
        wait_for(lambda: daemon.status()["journal"]["deliveries"] == 1, 60, "the published event")
        assert daemon.metric(f'bridge_topic_mismatches{{topic="{missing}"}}') == 1
        assert daemon.metric(f'bridge_topic_mismatches{{topic="{prefix}video.status.created"}}') == 1
        subjects = {entry["subject"] for entry in daemon.logged("topic_mismatch")}
        assert subjects == {"topic", "retention.ms"}
        assert await partitions(admin, missing) is None
        await admin.create_topics([NewTopic(missing, 2, 1)])
        wait_for(daemon.drained, 60, "the parked event on its topic")


async def test_a_topic_deleted_under_a_daemon_comes_back_by_the_contract(
    guarded_kafka: GuardedKafka, admin: AIOKafkaAdminClient, tmp_path: Path, prefix: str
) -> None:
    """With `create`, the topic has the contract's partitions again, not the broker's default of one."""
    topic = prefix + "video.status.created"
    settings: dict[str, Any] = {"topics_partitions": 3}
    with Daemon(tmp_path, guarded_kafka.node.bootstrap_servers, prefix, **settings) as daemon:
        assert daemon.post(CREATED).status == 200
        wait_for(daemon.drained, 60, "the first event")
        await admin.delete_topics([topic])
        deadline = time.monotonic() + 60
        while await partitions(admin, topic) is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert daemon.post(CREATED).status == 200
        wait_for(daemon.drained, 60, "the event after the deletion")
        assert await partitions(admin, topic) == 3


async def read_on(reader: Reader) -> None:
    """Follow the topics until cancelled."""
    async for _ in reader.records("beginning", follow=True):
        pass


async def test_a_reader_creates_no_topic(guarded_kafka: GuardedKafka, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """Neither a missing topic nor one that is deleted while it is followed is created by the reader."""
    await admin.create_topics([NewTopic(prefix + "a", 1, 1), NewTopic(prefix + "b", 1, 1)])
    kafka = guarded_kafka.user(
        bootstrap_servers=guarded_kafka.node.bootstrap_servers, security_protocol="PLAINTEXT", sasl_mechanism=None
    )
    async with open_reader(kafka, {prefix + "a", prefix + "b", prefix + "missing"}) as reader:
        assert reader.topics == [prefix + "a", prefix + "b"]
        following = asyncio.create_task(read_on(reader))
        await asyncio.sleep(0.5)
        await admin.delete_topics([prefix + "b"])
        await asyncio.sleep(3)
        following.cancel()
    assert await partitions(admin, prefix + "missing") is None
    assert await partitions(admin, prefix + "b") is None


def test_a_daemon_names_the_cause_when_kafka_refuses_the_connection(tmp_path: Path, prefix: str) -> None:
    """The log line and /status name the address, the cause and the fix; deliveries are accepted meanwhile."""
    address = f"127.0.0.1:{free_port()}"
    with Daemon(tmp_path, address, prefix) as daemon:
        assert daemon.post(CREATED).status == 200
        wait_for(lambda: daemon.logged("kafka_disconnected"), 10, "the log line")
        (line,) = daemon.logged("kafka_disconnected")
        assert f"{address} refused the connection" in line["detail"]
        (kafka,) = [entry for entry in daemon.status()["health"] if entry["component"] == "kafka"]
        assert "refused the connection" in kafka["cause"]


def test_a_daemon_names_the_new_cause_when_the_failure_of_kafka_changes(tmp_path: Path, prefix: str) -> None:
    """Log and /status do not keep the first cause; the outage itself is logged once."""
    port = free_port()
    with Daemon(tmp_path, f"127.0.0.1:{port}", prefix) as daemon:
        wait_for(lambda: daemon.logged("kafka_disconnected"), 10, "the log line")
        with socket.create_server(("127.0.0.1", port)):  # accepts connections and never responds
            wait_for(lambda: daemon.logged("kafka_still_disconnected"), 60, "the new cause")
            (kafka,) = [entry for entry in daemon.status()["health"] if entry["component"] == "kafka"]
            assert "does not respond" in kafka["cause"]
            assert daemon.logged("kafka_still_disconnected")[-1]["detail"] == kafka["cause"]
        assert len(daemon.logged("kafka_disconnected")) == 1


def test_a_daemon_names_the_cause_when_kafka_rejects_the_password(
    guarded_kafka: GuardedKafka, tmp_path: Path, prefix: str
) -> None:
    """The log line names the user and the mechanism, not the password."""
    settings: dict[str, Any] = {
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "bridge",
        "kafka_sasl_password": "not-the-password",
    }
    with Daemon(tmp_path, guarded_kafka.sasl, prefix, **settings) as daemon:
        wait_for(lambda: daemon.logged("kafka_disconnected"), 30, "the log line")
        detail = daemon.logged("kafka_disconnected")[0]["detail"]
        assert "Kafka rejected user 'bridge': wrong username or password (SASL PLAIN)" in detail
        assert "not-the-password" not in daemon.log()
