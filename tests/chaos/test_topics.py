"""Topics change under the daemon: dead letters are rejected, topics are deleted, the cluster loses all its data."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it exports them without saying so
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from bridge.contract.schemas import Contract
from tests.chaos.framework import Chaos, topics
from tests.support.brokers import ApacheKafka
from tests.support.daemon import Daemon, wait_for
from tests.support.delivery_checker import read_published

INVALID_BODIES = 10


def set_config(admin: AdminClient, topic: str, **values: str) -> None:
    """Set entries of a topic's configuration, with `_` in place of `.`."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in values.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


def post_invalid(daemon: Daemon, name: str, size: int) -> list[bytes]:
    """Post bodies that are not JSON, and return them."""
    bodies = [f"{name} {number} ".encode().ljust(size, b"x") for number in range(INVALID_BODIES)]
    assert [daemon.post(body).status for body in bodies] == [200] * len(bodies)
    return bodies


async def test_dead_letters_that_their_topic_rejects(chaos: Chaos) -> None:
    """Too large, without a key for a compacted topic, forbidden: no other event waits for them, and none is lost."""
    topic = f"{chaos.prefix}dead-letter"
    admin = AdminClient({"bootstrap.servers": chaos.bootstrap_servers})
    rule = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    rules = [
        AclBinding(*rule, AclOperation.WRITE, AclPermissionType.DENY),
        AclBinding(*rule, AclOperation.ALL, AclPermissionType.ALLOW),
    ]
    with chaos.bridge() as daemon:
        await asyncio.to_thread(chaos.load(daemon, 100).finish)
        wait_for(daemon.drained)
        set_config(admin, topic, max_message_bytes="20000")
        chaos.load(daemon, chaos.scaled(700, 3000), rate=300)
        invalid = await asyncio.to_thread(post_invalid, daemon, "large", 100_000)
        chaos.wait_for_acknowledged(daemon, 100)
        set_config(admin, topic, cleanup_policy="compact")
        invalid += await asyncio.to_thread(post_invalid, daemon, "without a key", 100)
        chaos.wait_for_acknowledged(daemon, 100)
        wait_for(lambda: daemon.metric(f'bridge_kafka_records_published_total{{topic="{topic}"}}') >= len(invalid), 60)
        set_config(admin, topic, cleanup_policy="delete")
        for done in admin.create_acls(rules).values():
            done.result(30)
        invalid += await asyncio.to_thread(post_invalid, daemon, "forbidden", 100)
        wait_for(lambda: daemon.status()["journal"]["parked"] == {topic: INVALID_BODIES}, 60, "parking")
        await asyncio.to_thread(chaos.loads[-1].finish)
        wait_for(lambda: daemon.status()["journal"]["deliveries"] == INVALID_BODIES, 60, "the other events on Kafka")
        everything = AclBindingFilter(*rule[:3], None, None, AclOperation.ANY, AclPermissionType.ANY)  # type: ignore[arg-type]
        for removed in admin.delete_acls([everything]).values():
            assert removed.result(30)
        await chaos.verify(daemon, invalid=invalid, note="20 published without their body, 10 parked")


@pytest.fixture
def creating_kafka(kafka_libraries: Path, tmp_path: Path) -> Iterator[ApacheKafka]:
    """Kafka that creates topics at a client's first request for them, as is its default."""
    properties = {"auto.create.topics.enable": "true", "num.partitions": "1"}
    with ApacheKafka(kafka_libraries, tmp_path / "kafka", properties=properties) as node:
        yield node


async def test_topic_deleted_where_the_broker_creates_topics(chaos: Chaos, creating_kafka: ApacheKafka) -> None:
    """A topic deleted under the daemon is created again with the contract's partitions, not with the broker's."""
    chaos.bootstrap_servers = creating_kafka.bootstrap_servers
    deleted = f"{chaos.prefix}video.status.ready"
    admin = AdminClient({"bootstrap.servers": chaos.bootstrap_servers})
    with chaos.bridge(topics_partitions=3) as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(300, 2000)).finish)
        wait_for(daemon.drained)
        earlier = read_published(chaos.bootstrap_servers, [deleted])  # Kafka deletes them with the topic
        for done in admin.delete_topics([deleted]).values():
            done.result(30)
        chaos.load(daemon, chaos.scaled(700, 3000), rate=300)
        await chaos.verify(daemon, earlier=earlier)
    assert len(admin.list_topics(timeout=30).topics[deleted].partitions) == 3


async def test_topics_deleted_where_the_broker_creates_topics_and_the_bridge_may_not(
    chaos: Chaos, creating_kafka: ApacheKafka
) -> None:
    """With `verify` a deleted topic is created by no request of the daemon: its events are parked until it is back."""
    chaos.bootstrap_servers = creating_kafka.bootstrap_servers
    deleted = f"{chaos.prefix}video.status.ready"
    admin = AdminClient({"bootstrap.servers": chaos.bootstrap_servers})
    with chaos.bridge(topics_partitions=3) as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(300, 2000)).finish)
        wait_for(daemon.drained)
        daemon.stop()
        daemon.settings["topics_provision"] = "verify"
        daemon.start()
        earlier = read_published(chaos.bootstrap_servers, [deleted])
        for done in admin.delete_topics([deleted]).values():
            done.result(30)
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(700, 3000), rate=300).finish)
        wait_for(lambda: set(daemon.status()["journal"]["parked"]) == {deleted}, 60, "parking")
        assert deleted not in admin.list_topics(timeout=30).topics
        parked = daemon.status()["journal"]["parked"][deleted]
        for created in admin.create_topics([NewTopic(deleted, 3, 1)]).values():
            created.result(30)
        await chaos.verify(daemon, earlier=earlier, note=f"{parked} parked")


async def test_cluster_that_lost_all_its_data(chaos: Chaos, creating_kafka: ApacheKafka) -> None:
    """A cluster that comes back empty gets its topics by the contract, and everything that was pending, in order."""
    chaos.bootstrap_servers = creating_kafka.bootstrap_servers
    with chaos.bridge(topics_partitions=3) as daemon:
        await asyncio.to_thread(chaos.load(daemon, chaos.scaled(300, 2000)).finish)
        wait_for(daemon.drained)
        earlier = read_published(chaos.bootstrap_servers, topics(chaos.prefix))
        creating_kafka.kill()
        chaos.load(daemon, chaos.scaled(700, 3000), rate=300)
        chaos.wait_for_acknowledged(daemon, 300)
        await asyncio.to_thread(shutil.rmtree, creating_kafka.directory)
        await asyncio.to_thread(creating_kafka.start)
        await chaos.verify(daemon, earlier=earlier)
    found = AdminClient({"bootstrap.servers": chaos.bootstrap_servers}).list_topics(timeout=30).topics
    assert {len(found[topic.name].partitions) for topic in Contract.load(chaos.prefix).topics.values()} == {3}
