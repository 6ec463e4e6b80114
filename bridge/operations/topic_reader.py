"""Reading Kafka for people and tools: some topics, from a place, to their present end or without end.

Promises: nothing is left behind on Kafka (no group, no commit, no topic made by asking for one); each partition is
read in its order; a read that is not followed ends at the ends that it found when it began, whatever is published
meanwhile; a value is its JSON, whatever wire format it was published in. What Kafka refuses is a BridgeError that says
what to do.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

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
    """Some topics of Kafka, those of `topics` that exist; made by `reading`."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: Collection[str]) -> None:
        self._consumer = consumer
        self.topics = sorted(topics)
        self._partitions: list[TopicPartition] = sorted(consumer.assignment()) if topics else []

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
        left = {each for each in self._partitions if begins[each] < ends[each]}
        while follow or left:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
            for partition, batch in batches.items():
                for record in batch:
                    if record.timestamp >= since and (follow or record.offset < ends[partition]):
                        yield unframed(record)
            if not follow:
                # By position, not by record: a compacted partition may have none at its end.
                left = {each for each in left if await consumer.position(each) < ends[each]}

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
async def reading(kafka: KafkaSettings, topics: Collection[str]) -> AsyncIterator[Reader]:
    """Connect for the length of the block. Topics that do not exist are left out, and not made."""
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
            yield Reader(consumer, existing)
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
