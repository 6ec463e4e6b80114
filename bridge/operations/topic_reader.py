"""Reads topics for operator commands: from a start position to the current end, or following new records.

Input: Kafka settings, topic names, a start position. Output: records whose value is the JSON, in any wire format.
Invariants: nothing is left behind on Kafka (no consumer group, no commit, no topic created: topics are subscribed by
pattern, because aiokafka's metadata requests by name create a missing topic); records come in order of time across
partitions, and in order of offset within each; without `follow`, a read ends at the end offsets of its start; an error
of Kafka is a BridgeError with the cause and the fix.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.partitioner import murmur2

from bridge.errors import BridgeError
from bridge.kafka.client import ConnectionFailedError, client_options, describe_error
from bridge.kafka.diagnosis import explain
from bridge.kafka.wire_format import detect_format, strip_schema_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator

    from aiokafka import ConsumerRecord

    from bridge.config.sections import KafkaSettings

MAX_BATCH = 1000
"""Maximum number of records requested at once."""
POLL_MS = 200
ASSIGNMENT_SECONDS = 5.0
"""Time limit for the partitions of a topic that was created a moment ago."""
SAMPLE_SECONDS = 10.0
"""Time limit for sampling the first and the last record of each partition."""

Start = Literal["beginning", "end"] | int
"""Where a read starts; a number is the earliest record timestamp, in milliseconds."""


@contextmanager
def translate_kafka_errors(kafka: KafkaSettings) -> Iterator[None]:
    """Raise a BridgeError with the cause and the fix for an error of Kafka in the block; silence aiokafka's log."""
    log = logging.getLogger("aiokafka")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the diagnosis says more, once
    try:
        yield
    except BrokenPipeError:  # stdout's reader closed the pipe
        raise
    except ConnectionFailedError as error:
        raise BridgeError(f"No connection to Kafka: {error}") from error
    except TopicAuthorizationFailedError as error:
        raise BridgeError(
            f"Kafka does not allow this user to read {', '.join(map(str, error.args))}. Fix: allow Read on the topics "
            "(kafka-acls --operation Read)."
        ) from error
    except (KafkaError, TimeoutError, OSError) as error:
        raise BridgeError(
            f"Kafka at {kafka.bootstrap_servers}: {describe_error(error)}. Fix: check that Kafka runs, and that this "
            "user may Describe and Read the topics (`gumlet-bridge doctor`)."
        ) from error
    finally:
        log.setLevel(level)


class Reader:
    """Reads those topics of a consumer's subscription that exist; with `key`, its partition alone."""

    def __init__(self, consumer: AIOKafkaConsumer, key: bytes | None = None) -> None:
        self._consumer = consumer
        self._assigned = consumer.assignment()
        self._positions: dict[TopicPartition, int] = {}
        self._partitions: list[TopicPartition] = sorted(self._assigned)
        self.topics = sorted({partition.topic for partition in self._partitions})
        if key is not None:
            hashed = murmur2(key) & 0x7FFFFFFF
            counts = {topic: len(consumer.partitions_for_topic(topic)) for topic in self.topics}
            others = {each for each in self._partitions if each.partition != hashed % counts[each.topic]}
            consumer.pause(*others)
            self._partitions = [each for each in self._partitions if each not in others]

    async def records(self, start: Start = "beginning", *, follow: bool = False) -> AsyncIterator[ConsumerRecord]:
        """Yield records from `start`; without `follow`, up to the end offsets of the call."""
        if not self._partitions:
            return
        ends = await self._consumer.end_offsets(self._partitions)
        begins = await self._start_offsets(start, ends)
        self._seek(begins)
        since = start if isinstance(start, int) else 0
        newer: list[ConsumerRecord] = []
        async for record in self._merge({each for each in self._partitions if begins[each] < ends[each]}, ends, newer):
            if record.timestamp >= since:
                yield strip_schema_id(record)
        while follow:
            for record in sorted(newer, key=lambda each: each.timestamp):
                yield strip_schema_id(record)
            newer = [record for batch in (await self._fetch(self._partitions)).values() for record in batch]

    async def _merge(
        self, unread: set[TopicPartition], ends: dict[TopicPartition, int], newer: list[ConsumerRecord]
    ) -> AsyncIterator[ConsumerRecord]:
        """Yield the records before `ends`, merged by time; what is fetched beyond them is added to `newer`."""
        heap: list[tuple[int, TopicPartition, int, ConsumerRecord]] = []
        buffered = dict.fromkeys(unread, 0)
        latest = dict.fromkeys(unread, 0)
        while unread or heap:
            if starved := [each for each in unread if not buffered[each]]:
                for partition, batch in (await self._fetch(starved)).items():
                    for record in batch:
                        if record.offset >= ends[partition]:
                            newer.append(record)
                            continue
                        # Never earlier than the record before it: the order within a partition is kept.
                        latest[partition] = max(latest[partition], record.timestamp)
                        heapq.heappush(heap, (latest[partition], partition, record.offset, record))
                        buffered[partition] += 1
                # By position, not by record: a compacted partition may have no record at its end.
                unread = {p for p in unread & self._assigned if await self._consumer.position(p) < ends[p]}
                continue
            _, partition, _, record = heapq.heappop(heap)
            buffered[partition] -= 1
            yield record

    async def _fetch(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records of these partitions, each record once."""
        if not (wanted := [partition for partition in partitions if partition in self._assigned]):
            await asyncio.sleep(POLL_MS / 1000)
            return {}
        found = {}
        batches = await self._consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=MAX_BATCH)
        for partition, batch in batches.items():
            found[partition] = [record for record in batch if record.offset >= self._positions.get(partition, 0)]
            self._positions[partition] = batch[-1].offset + 1
        if (assigned := self._consumer.assignment()) != self._assigned:
            # A topic was created or deleted: aiokafka starts all partitions again.
            self._assigned = assigned
            self._seek({each: offset for each, offset in self._positions.items() if each in assigned})
        return found

    async def count(self) -> int:
        """Return the approximate number of records, for a progress bar."""
        ends = await self._consumer.end_offsets(self._partitions)
        begins = await self._consumer.beginning_offsets(self._partitions)
        return sum(ends[partition] - begins[partition] for partition in self._partitions)

    async def sample(self) -> AsyncIterator[ConsumerRecord]:
        """Yield the first and the last record of each partition, as stored, within SAMPLE_SECONDS."""
        begins = await self._consumer.beginning_offsets(self._partitions)
        ends = await self._consumer.end_offsets(self._partitions)
        filled = [partition for partition in self._partitions if begins[partition] < ends[partition]]
        deadline = asyncio.get_running_loop().time() + SAMPLE_SECONDS
        for offsets in (begins, {partition: end - 1 for partition, end in ends.items()}):
            self._seek({partition: max(offsets[partition], begins[partition]) for partition in filled})
            waiting = set(filled)
            while waiting and asyncio.get_running_loop().time() < deadline:
                for partition, batch in (await self._consumer.getmany(*waiting, timeout_ms=POLL_MS)).items():
                    waiting.discard(partition)
                    yield batch[0]

    def _seek(self, offsets: dict[TopicPartition, int]) -> None:
        self._positions.update(offsets)
        for partition, offset in offsets.items():
            self._consumer.seek(partition, offset)

    async def _start_offsets(self, start: Start, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        if start == "end":
            return dict(ends)
        begins: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self._partitions)
        if not isinstance(start, int):
            return begins
        found = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, start))
        # None means that a partition has no record so new; a broker without timestamps returns None for every time.
        of_all = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, 0))
        return {
            each: found[each].offset if found[each] else ends[each] if of_all[each] else begins[each]
            for each in self._partitions
        }


@asynccontextmanager
async def open_reader(kafka: KafkaSettings, topics: Collection[str], key: bytes | None = None) -> AsyncIterator[Reader]:
    """Connect a reader of those of `topics` that exist, for the length of the block.

    With `key`, only the partition that records with this key are published to is read.
    """
    with translate_kafka_errors(kafka):
        consumer = AIOKafkaConsumer(
            **client_options(kafka),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=POLL_MS,
        )
        if topics:
            consumer.subscribe(pattern=f"^({'|'.join(map(re.escape, sorted(topics)))})$")
        try:
            try:
                await consumer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                raise ConnectionFailedError(await explain(kafka, error)) from error
            # aiokafka's own tasks must have started: stopped before, they end the caller with CancelledError.
            await asyncio.sleep(0)
            await _wait_for_assignment(consumer, topics)
            yield Reader(consumer, key)
        finally:
            await consumer.stop()


async def _wait_for_assignment(consumer: AIOKafkaConsumer, topics: Collection[str]) -> None:
    """Wait until every topic that exists has its partitions assigned; a new topic has no leader for a moment."""
    deadline = asyncio.get_running_loop().time() + ASSIGNMENT_SECONDS
    while True:
        missing = (await consumer.topics() & set(topics)) - {each.topic for each in consumer.assignment()}
        if not missing:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise BridgeError(
                f"Topic {min(missing)} exists but has no available partitions. Fix: check that its leader runs, and "
                "that this user may Describe and Read it."
            )
        await asyncio.sleep(0.2)


async def find_mixed_formats(kafka: KafkaSettings, topics: Collection[str]) -> dict[str, list[str]]:
    """Return each topic whose first and last records are in more than one wire format, with the formats."""
    formats: dict[str, set[str]] = {}
    async with open_reader(kafka, topics) as reader:
        async for record in reader.sample():
            formats.setdefault(record.topic, set()).add(detect_format(record))
    return {topic: sorted(found) for topic, found in sorted(formats.items()) if len(found) > 1}
