"""Reads Kafka topics for the commands: from an offset or a time, to their current end or continuously.

Invariants: reading leaves nothing on Kafka (no group, no commit, no auto-created topic). Records come in order of time
across partitions, and in order of offset within each partition. Without `follow`, a read ends at the end offsets of its
start. Values are JSON, whatever the wire format. Kafka errors become a BridgeError that names the fix.
"""

from __future__ import annotations

import asyncio
import heapq
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from bridge.errors import BridgeError
from bridge.kafka.client import client_options, words
from bridge.kafka.wire_format import unframed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from aiokafka import ConsumerRecord

    from bridge.config.sections import KafkaSettings

BATCH = 1000
"""Most records that are asked for at once."""
POLL_MS = 200
ATTEMPTS = 25
"""How often Kafka is asked for the partitions of a topic that has just been made."""


@contextmanager
def translate_kafka_errors(kafka: KafkaSettings) -> Iterator[None]:
    """Turn what goes wrong with Kafka inside the block into a BridgeError that says what to do."""
    try:
        yield
    except BrokenPipeError:  # whoever read what we print has enough
        raise
    except (KafkaError, TimeoutError, OSError) as error:
        raise BridgeError(
            f"Kafka at {kafka.bootstrap_servers}: {words(error)}. Fix: see that Kafka runs, then "
            "BRIDGE_KAFKA_BOOTSTRAP_SERVERS, _SECURITY_PROTOCOL, the credentials and this user's rights."
        ) from error


class Reader:
    """The topics that exist, of those asked for; of these the partition of `key` alone when there is one."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: Collection[str], key: bytes | None = None) -> None:
        self._consumer = consumer
        self.topics = sorted(topics)
        self._partitions: list[TopicPartition] = sorted(consumer.assignment()) if topics else []
        if key is not None:
            hashed = murmur2(key) & 0x7FFFFFFF
            counts = {topic: len(consumer.partitions_for_topic(topic)) for topic in topics}
            others = {each for each in self._partitions if each.partition != hashed % counts[each.topic]}
            consumer.pause(*others)
            self._partitions = [each for each in self._partitions if each not in others]

    async def records(
        self, start: Literal["beginning", "end"] | int = "beginning", *, follow: bool = False
    ) -> AsyncIterator[ConsumerRecord]:
        """Yield records from `start` (a number: those received at that time or later, in milliseconds).

        Without `follow`, end where the topics ended at the call.
        """
        if not self._partitions:
            return
        consumer = self._consumer
        ends = await consumer.end_offsets(self._partitions)
        begins = await self._begins(start, ends)
        for partition, offset in begins.items():
            consumer.seek(partition, offset)
        since = start if isinstance(start, int) else 0
        newer: list[ConsumerRecord] = []
        async for record in self._merged({each for each in self._partitions if begins[each] < ends[each]}, ends, newer):
            if record.timestamp >= since:
                yield unframed(record)
        while follow:
            for record in sorted(newer, key=lambda each: each.timestamp):
                yield unframed(record)
            batches = await consumer.getmany(*self._partitions, timeout_ms=POLL_MS, max_records=BATCH)
            newer = [record for batch in batches.values() for record in batch]

    async def _merged(
        self, left: set[TopicPartition], ends: dict[TopicPartition, int], newer: list[ConsumerRecord]
    ) -> AsyncIterator[ConsumerRecord]:
        """Yield the records before `ends`, merged by time; what is fetched beyond them is added to `newer`."""
        consumer = self._consumer
        heap: list[tuple[int, TopicPartition, int, ConsumerRecord]] = []
        buffered = dict.fromkeys(left, 0)
        latest = dict.fromkeys(left, 0)
        while left or heap:
            if starved := [each for each in left if not buffered[each]]:
                batches = await consumer.getmany(*starved, timeout_ms=POLL_MS, max_records=BATCH)
                for partition, batch in batches.items():
                    for record in batch:
                        if record.offset >= ends[partition]:
                            newer.append(record)
                            continue
                        # Never earlier than the record before it: the order within a partition is kept.
                        latest[partition] = max(latest[partition], record.timestamp)
                        heapq.heappush(heap, (latest[partition], partition, record.offset, record))
                        buffered[partition] += 1
                # By position, not by record: a compacted partition may have no record at its end.
                left = {each for each in left if await consumer.position(each) < ends[each]}
                continue
            _, partition, _, record = heapq.heappop(heap)
            buffered[partition] -= 1
            yield record

    async def count(self) -> int:
        """Return about how many records there are, for a progress bar."""
        ends = await self._consumer.end_offsets(self._partitions)
        begins = await self._consumer.beginning_offsets(self._partitions)
        return sum(ends[each] - begins[each] for each in self._partitions)

    async def _begins(self, start: str | int, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        if start == "end":
            return ends
        begins: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self._partitions)
        if not isinstance(start, int):
            return begins
        found = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, start))
        # None is said of a partition with nothing so new, but also, of all, by a broker that knows no times.
        of_all = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, 0))
        return {
            each: found[each].offset if found[each] else ends[each] if of_all[each] else begins[each]
            for each in self._partitions
        }


@asynccontextmanager
async def reading(kafka: KafkaSettings, topics: Collection[str], key: bytes | None = None) -> AsyncIterator[Reader]:
    """Connect for the length of the block. Topics that do not exist are left out and not created.

    With `key`, only the partition that records with this key are published to is read.
    """
    with translate_kafka_errors(kafka):
        # Two, because a consumer that asked for a missing topic would have Kafka make it.
        lister = AIOKafkaConsumer(**client_options(kafka))
        try:
            await lister.start()
            existing = await lister.topics() & set(topics)
        finally:
            await lister.stop()
        consumer = await _assigned(kafka, existing)
        try:
            yield Reader(consumer, existing, key)
        finally:
            await consumer.stop()


async def _assigned(kafka: KafkaSettings, topics: Collection[str]) -> AIOKafkaConsumer:
    """Return a consumer that has partitions of every topic; one that is being made has no leader for a moment."""
    for _ in range(ATTEMPTS):
        consumer = AIOKafkaConsumer(
            *topics,
            **client_options(kafka),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=POLL_MS,
        )
        try:
            await consumer.start()
            # aiokafka's own tasks must have had a turn: stopped before it, they end the caller with CancelledError.
            await asyncio.sleep(0)
            missing = set(topics) - {partition.topic for partition in consumer.assignment()}
        except BaseException:
            await consumer.stop()
            raise
        if not missing:
            return consumer
        await consumer.stop()
        await asyncio.sleep(0.2)
    raise BridgeError(
        f"Kafka has {min(missing)}, and shows no partition of it. Fix: see that its leader is up, and that this user "
        "may Describe and Read it."
    )
