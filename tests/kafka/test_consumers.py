"""The consumers of `schemas/consumers/`, unchanged, on Apache Kafka: all languages end with the same tables."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.consumer_builds import BUILDS, python_command
from tests.support.consumers import (
    PARTITIONS,
    SECONDS,
    Program,
    Scenario,
    assets,
    count_handled,
    create_topics,
    expected_assets,
    group,
    publish,
    publish_foreign,
    query,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.brokers import Broker

pytestmark = pytest.mark.long

POSTGRESQL = "BRIDGE_TEST_POSTGRESQL_URL"
ASSETS = 400
BEFORE_CRASH = 100
CHUNK = 50


class Consumer(NamedTuple):
    """A consumer's command and its database."""

    command: list[str | Path]
    database: Path | str


@pytest.fixture(params=["python", "python-postgresql", *BUILDS])
def consumer(
    request: pytest.FixtureRequest, prefix: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Consumer]:
    """Each consumer in turn."""
    if build := BUILDS.get(request.param):
        yield Consumer(build(tmp_path_factory.mktemp("build")), tmp_path / "assets.sqlite")
        return
    command = python_command()
    if request.param == "python":
        yield Consumer(command, tmp_path / "assets.sqlite")
        return
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    if not (server := os.environ.get(POSTGRESQL)):
        pytest.skip(f"{POSTGRESQL} names no PostgreSQL")
    schema = prefix.rstrip(".")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield Consumer(command, f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema}")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def count_members(servers: str, name: str) -> int:
    """Return the number of members that a consumer group has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (response,) = await admin.describe_consumer_groups([name])
    finally:
        await admin.close()
    ((_, _, state, _, _, members, *_),) = response.groups
    return len(members) if state == "Stable" else 0


async def committed(servers: str, name: str, partitions: list[TopicPartition]) -> dict[TopicPartition, int | None]:
    """Return the group's committed offsets."""
    async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=name, enable_auto_commit=False) as consumer:
        consumer.assign(partitions)
        return {partition: await consumer.committed(partition) for partition in partitions}


async def rewind(servers: str, name: str, partitions: list[TopicPartition]) -> None:
    """Set the offsets of a group without members to the beginning, as after a crash before the commit."""
    async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=name, enable_auto_commit=False) as consumer:
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))


async def end_offsets(servers: str, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the ends of the partitions that have records."""
    async with AIOKafkaConsumer(bootstrap_servers=servers) as consumer:
        return {partition: end for partition, end in (await consumer.end_offsets(partitions)).items() if end}


async def test_table_is_correct_after_duplicates_disorder_a_crash_and_a_rebalance(
    apache_kafka: Broker, prefix: str, consumer: Consumer
) -> None:
    """Also unknown fields and types, deletions, dead letters, every wire format, foreign records, and a replay."""
    servers, (command, database) = apache_kafka.bootstrap_servers, consumer
    scenario = Scenario(prefix)
    topics = scenario.topics()
    await create_topics(servers, topics)
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    events = scenario.disordered(ASSETS)
    half, tail = len(events) // 2, len(events) - CHUNK
    await publish_foreign(servers, topics[0])

    with Program(command, servers, database, prefix) as killed:
        for start in range(0, half, CHUNK):
            await publish(servers, events[start : start + CHUNK])
            if start >= BEFORE_CRASH:
                await asyncio.to_thread(killed.wait_until_handled, 1)
        killed.kill()
    half = start + CHUNK
    ids = {event.id for event in events}
    assert 0 < count_handled(database) < len(ids)

    first, second = (Program(command, servers, database, prefix) for _ in range(2))
    with first, second:
        name = group(database)
        members = 0
        async with asyncio.timeout(SECONDS):
            while members != 2:
                first.check_running()
                second.check_running()
                members = await count_members(servers, name)
        await publish(servers, events[half:tail])
        await asyncio.to_thread(first.wait_until_handled, len({event.id for event in events[:tail]}))
        await asyncio.to_thread(second.stop)  # its partitions go to the other member
        await publish(servers, events[tail:])
        await asyncio.to_thread(first.wait_until_handled, len(ids))
        await asyncio.to_thread(first.stop)
    expected = expected_assets(events)
    assert assets(database) == expected
    assert count_handled(database) == len(ids)
    dead_letters = {event.id for event in events if event.event_type == "dead-letter"}
    assert set(query(database, "SELECT id, reason FROM dead_letter")) == {(id_, "invalid_json") for id_ in dead_letters}
    ends = await end_offsets(servers, partitions)
    assert await committed(servers, name, list(ends)) == ends

    # As after a crash before the commit: everything is read again, and later duplicates of old events too.
    await rewind(servers, name, list(ends))
    await publish(servers, [scenario.duplicate(event) for event in events])
    marker = scenario.event("created", "marker")
    await publish(servers, [marker])
    with Program(command, servers, database, prefix) as again:
        await asyncio.to_thread(again.wait_until_handled, len(ids) + 1)
        again.stop()
    assert assets(database) == expected | expected_assets([marker])
    assert count_handled(database) == len(ids) + 1
