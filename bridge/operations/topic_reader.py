"""Reads topics for operator commands: from a start position to the current end, or following new records.

Input: Kafka settings, topic names, a start position. Output: records whose value is the JSON, in any wire format.
Invariants: nothing is left behind on Kafka (no consumer group, no commit, no topic created: topics are subscribed by
pattern, because aiokafka's metadata requests by name create a missing topic); each partition is read in order; without
`follow`, a read ends at the end offsets of its start; an error of Kafka is a BridgeError with the cause and the fix.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from bridge.errors import BridgeError
from bridge.kafka.client import ConnectionFailedError, client_options, describe_error
from bridge.kafka.diagnosis import explain
from bridge.kafka.wire_format import detect_format, strip_schema_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

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
    except (KafkaError, TimeoutError, OSError) as error:
        raise BridgeError(
            f"Kafka at {kafka.bootstrap_servers}: {describe_error(error)}. Fix: check that Kafka runs, and that this "
            "user may Describe and Read the topics (`gumlet-bridge doctor`)."
        ) from error
    finally:
        log.setLevel(level)


class Reader:
    """Reads those topics of a consumer's subscription that exist; created by `open_reader`."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._partitions: list[TopicPartition] = sorted(consumer.assignment())
        self.topics = sorted({partition.topic for partition in self._partitions})

    async def records(self, start: Start = "beginning", *, follow: bool = False) -> AsyncIterator[ConsumerRecord]:
        """Yield records from `start`; without `follow`, up to the end offsets of the call."""
        if not self._partitions:
            return
        consumer = self._consumer
        ends = await consumer.end_offsets(self._partitions)
        positions = await self._start_offsets(start, ends)
        self._seek(positions)
        since = start if isinstance(start, int) else 0
        assigned = consumer.assignment()
        unfinished = {partition for partition in self._partitions if positions[partition] < ends[partition]}
        while follow or unfinished:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)
            for partition, batch in batches.items():
                for record in batch:
                    if record.offset < positions.get(partition, 0):
                        continue
                    positions[partition] = record.offset + 1
                    if record.timestamp >= since and (follow or record.offset < ends.get(partition, 0)):
                        yield strip_schema_id(record)
            if assigned != (assigned := consumer.assignment()):
                # A topic was created or deleted: aiokafka starts all partitions again.
                self._seek({partition: positions[partition] for partition in assigned & positions.keys()})
            if not follow:
                # By position, not by record: a compacted partition may have no record at its end.
                unfinished = {p for p in unfinished & assigned if await consumer.position(p) < ends[p]}

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
async def open_reader(kafka: KafkaSettings, topics: Collection[str]) -> AsyncIterator[Reader]:
    """Connect a reader of those of `topics` that exist, for the length of the block."""
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
            yield Reader(consumer)
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
