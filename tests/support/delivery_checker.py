"""Compares acknowledged deliveries with the records on Kafka; used by every test that causes a fault.

The promise: each acknowledged delivery is published at least as often as it was acknowledged; first publications keep
the order of an asset's events within a topic; a duplicate has the id of its original; every record was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from jsonschema_rs import Registry, validator_for

from bridge.contract.schemas import Contract


class DeliveryCheck(NamedTuple):
    """The result: counts, and a description of each lost, unknown or disordered event."""

    acknowledged: int
    published: int
    repeated: int
    lost: list[str]
    unknown: list[str]
    disordered: list[str]


async def read_all(bootstrap_servers: str, topics: Collection[str]) -> list[ConsumerRecord]:
    """Return every record of the topics, each partition's in order, with a consumer independent of the bridge."""
    lister = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers)
    await lister.start()
    try:
        existing = await lister.topics() & set(topics)
    finally:
        await lister.stop()
    if not existing:
        return []
    consumer = AIOKafkaConsumer(*existing, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        left = {each for each in partitions if ends[each] > begins[each]}
        records: list[ConsumerRecord] = []
        async with asyncio.timeout(120):
            while left:
                for partition, batch in (await consumer.getmany(timeout_ms=500, max_records=5000)).items():
                    records += batch
                    if batch and batch[-1].offset + 1 >= ends[partition]:
                        left.discard(partition)
        return records
    finally:
        await consumer.stop()


class PublishedRecord(NamedTuple):
    """The parts of a record that the check needs; a million of them fit in memory."""

    topic: str
    key: bytes | None
    headers: list[tuple[str, bytes]]


def read_published(bootstrap_servers: str, topics: Collection[str]) -> list[PublishedRecord]:
    """Return the records as `read_all` does, with librdkafka's consumer, which reads millions in seconds.

    Blocks. Raises AssertionError when the topics cannot be read to their ends.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "checker", "enable.partition.eof": True})
    try:
        known = consumer.list_topics(timeout=60).topics
        places = [
            TopicPartition(topic, partition, OFFSET_BEGINNING)
            for topic in topics
            if topic in known and known[topic].error is None
            for partition in known[topic].partitions
        ]
        ends = {(each.topic, each.partition): _end(consumer, each) for each in places}
        left = {place for place, end in ends.items() if end > 0}
        consumer.assign([each for each in places if (each.topic, each.partition) in left])
        records: list[PublishedRecord] = []
        deadline = time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"could not be read to the end: {left}"
            batch: list[Any] = consumer.consume(10_000, timeout=0.5)
            for message in batch:
                place = message.topic(), message.partition()
                error = message.error()
                if error is None:
                    records.append(PublishedRecord(message.topic(), message.key(), [_id_header(message.headers())]))
                elif error.name() == "_PARTITION_EOF" and message.offset() >= ends[place]:
                    left.discard(place)
        return records
    finally:
        consumer.close()


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """Return a partition's end offset; a broker that has just started may not lead it yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return int(consumer.get_watermark_offsets(place, timeout=60)[1])
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _id_header(headers: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    return next(each for each in headers if each[0] == "ce_id")


def header(record: ConsumerRecord | PublishedRecord, name: str) -> str:
    """Return a record's header."""
    return str(dict(record.headers)[name].decode())


def verify_delivery(
    acknowledged: Iterable[dict[str, Any]],
    records: Iterable[ConsumerRecord | PublishedRecord],
    sent: Collection[str] | None = None,
) -> DeliveryCheck:
    """Compare acknowledged deliveries with the records on Kafka. `sent`: the ids of all deliveries sent, if known."""
    published: Counter[str] = Counter()
    firsts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        identity = header(record, "ce_id")
        published[identity] += 1
        if published[identity] == 1 and record.key is not None:
            firsts[record.topic, record.key.decode()].append(identity)
    owed: Counter[str] = Counter()
    expected: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in acknowledged:
        owed[each["id"]] += 1
        if owed[each["id"]] == 1:
            expected[each["type"], each["asset_id"]].append(each["id"])
    lost = [
        f"{identity}: {published[identity]} of {times}"
        for identity, times in owed.items()
        if published[identity] < times
    ]
    unknown = [identity for identity in published if sent is not None and identity not in sent]
    disordered = []
    position = {identity: place for identities in firsts.values() for place, identity in enumerate(identities)}
    for (event_type, asset), identities in expected.items():
        places = [position[identity] for identity in identities if identity in position]
        if places != sorted(places):
            disordered.append(f"{event_type} of {asset}: {places}")
    repeated = sum(published.values()) - sum(owed.values())
    return DeliveryCheck(sum(owed.values()), sum(published.values()), repeated, lost, unknown, disordered)


def assert_no_loss(check: DeliveryCheck) -> None:
    """Assert the promise."""
    assert not check.lost, f"{len(check.lost)} lost, for example {check.lost[:3]}"
    assert not check.unknown, f"{len(check.unknown)} that were never sent, for example {check.unknown[:3]}"
    assert not check.disordered, f"{len(check.disordered)} out of order, for example {check.disordered[:3]}"


def schema_violations(records: Iterable[ConsumerRecord], contract: Contract) -> list[str]:
    """Return the schema violations of records, found by validators that are independent of the bridge's."""
    topics = {topic.name: topic for topic in contract.topics.values()}
    common = orjson.loads((contract.dead_letter.path.parent / "common.json").read_bytes())
    registry = Registry([("json-schema:///common.json", common)])
    validators = {
        name: validator_for(topic.schema, registry=registry, base_uri=f"json-schema:///{topic.path.name}")
        for name, topic in topics.items()
    }
    return [
        f"{record.topic} {record.key!r}: {error.message}"
        for record in records
        for error in validators[record.topic].iter_errors(orjson.loads(record.value))
    ]
