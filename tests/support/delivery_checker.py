"""One verdict on what was acknowledged and what is on Kafka, the same for every test that makes a fault.

The promise: *acknowledged ⊆ published*, each event as often as it was acknowledged; the order of an asset's events
within a topic kept among first publications; a repeat has the id of its original; nothing published that was never
sent.
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


class Verdict(NamedTuple):
    """What was found: counts, and for what is wrong the first few in words."""

    acknowledged: int
    published: int
    repeated: int
    lost: list[str]
    unknown: list[str]
    disordered: list[str]


async def read_all(bootstrap_servers: str, topics: Collection[str]) -> list[ConsumerRecord]:
    """Return every record of the topics, each partition's in order, by a consumer that knows nothing of the bridge."""
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


class Kept(NamedTuple):
    """What the verdict needs of a record: a million of them fit in memory."""

    topic: str
    key: bytes | None
    headers: list[tuple[str, bytes]]


def read_kept(bootstrap_servers: str, topics: Collection[str]) -> list[Kept]:
    """Return what the verdict needs of every record, as `read_all` does, by librdkafka's consumer: millions in seconds.

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
        records: list[Kept] = []
        deadline = time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"could not be read to the end: {left}"
            batch: list[Any] = consumer.consume(10_000, timeout=0.5)
            for message in batch:
                place = message.topic(), message.partition()
                error = message.error()
                if error is None:
                    records.append(Kept(message.topic(), message.key(), [_id_header(message.headers())]))
                elif error.name() == "_PARTITION_EOF" and message.offset() >= ends[place]:
                    left.discard(place)
        return records
    finally:
        consumer.close()


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """Return where a partition ends; a broker that has just started may not lead it yet."""
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


def header(record: ConsumerRecord | Kept, name: str) -> str:
    """Return a record's header."""
    return str(dict(record.headers)[name].decode())


def judge(
    acknowledged: Iterable[dict[str, Any]],
    records: Iterable[ConsumerRecord | Kept],
    sent: Collection[str] | None = None,
) -> Verdict:
    """Compare what was acknowledged with what is on Kafka. `sent`: all ids that were ever sent, if known."""
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
    return Verdict(sum(owed.values()), sum(published.values()), repeated, lost, unknown, disordered)


def kept(verdict: Verdict) -> None:
    """Assert the promise."""
    assert not verdict.lost, f"{len(verdict.lost)} lost, for example {verdict.lost[:3]}"
    assert not verdict.unknown, f"{len(verdict.unknown)} that nobody sent, for example {verdict.unknown[:3]}"
    assert not verdict.disordered, f"{len(verdict.disordered)} out of order, for example {verdict.disordered[:3]}"


def invalid(records: Iterable[ConsumerRecord], contract: Contract) -> list[str]:
    """Return what is wrong with records by their schema files, judged apart from the bridge's own validators."""
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
