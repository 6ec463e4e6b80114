"""One connection's worth of sending: events in, a verdict for each out.

`Sender` owns one idempotent aiokafka producer at a time and never guesses: an event is `sent` only when every
in-sync broker has confirmed it. It waits for a Kafka that is away without end. It does not decide what happens to
an event that Kafka does not take; `DeliveryReport` says what Kafka said, and the publisher decides.

aiokafka numbers a batch before it is sent, so a batch that failed leaves a gap that the broker refuses ever after
(OutOfOrderSequenceNumber): after any failure the producer is replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.partitioner import murmur2

from bridge.config.sections import KafkaSettings
from bridge.event import Delivery, Event
from bridge.kafka.client import (
    EVENT_ERRORS,
    TOPIC_ERRORS,
    InvalidRecord,
    abandon,
    answers,
    backoff,
    client_options,
    sender_task_done,
    words,
)
from bridge.publisher.batch import Batch, latest_offsets
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecordOffset

BATCH_BYTES = 512 * 1024
"""Size of a produce batch: half of what a topic takes by default, so that headers and framing always fit."""
STALLED_TOPIC_TIMEOUT_SECONDS = 10.0
"""How long a topic may stay silent while others are confirmed before its events are parked."""
METADATA_SECONDS = 3.0
"""How long topics may take to be found among Kafka's: all together, for those that are found wait for the others."""

_log = structlog.stdlib.get_logger()
_murmur2 = lru_cache(maxsize=65_536)(murmur2)


class OutgoingEvent(NamedTuple):
    """An event ready to be sent, and the delivery it was made from."""

    event: Event
    delivery: Delivery


class Tell(Protocol):
    """What hears whether Kafka answers."""

    def __call__(self, *, connected: bool, detail: str = "") -> None:
        """Take the news."""


@dataclass(slots=True)
class DeliveryReport:
    """What became of each event: every one is in exactly one of these, in the order it had.

    `sent`: confirmed. `again`: unknown, to be sent again. `refused`: by topic, its events and Kafka's words.
    `rejected`: can never be taken, with a dead letter's reason and Kafka's words.
    `places` tells where the last of `sent` lie, at most MAX_ENTRIES of them.
    """

    sent: list[OutgoingEvent] = field(default_factory=list)
    places: list[RecordOffset] = field(default_factory=list)
    again: list[OutgoingEvent] = field(default_factory=list)
    refused: dict[str, tuple[list[OutgoingEvent], str]] = field(default_factory=dict)
    rejected: list[tuple[OutgoingEvent, str, str]] = field(default_factory=list)

    def refuse(self, prepared: OutgoingEvent, words: str) -> None:
        """Add an event that its topic does not take for now."""
        self.refused.setdefault(prepared.event.topic, ([], words))[0].append(prepared)


class Sender:
    """Sends events over one producer, replaced when it fails."""

    def __init__(self, settings: KafkaSettings, metrics: Metrics, tell: Tell | None = None) -> None:
        """`tell` hears whether Kafka answers, each time that is found out."""
        self._settings = settings
        self._metrics = metrics
        self._tell: Tell = tell or (lambda **_: None)
        self._producer: AIOKafkaProducer | None = None
        self._sends = 0
        self._isolated_ids: set[str] = set()

    async def connect(self) -> AIOKafkaProducer:
        """Return a producer that has reached Kafka, waiting without end; idempotent, `acks=all`."""
        attempt = 0
        while self._producer is None:
            producer = AIOKafkaProducer(
                **client_options(self._settings),
                enable_idempotence=True,
                acks="all",
                compression_type=None if self._settings.compression == "none" else self._settings.compression,
                max_batch_size=BATCH_BYTES,
                linger_ms=0,
            )
            try:
                async with asyncio.timeout(30):
                    await producer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                self._tell(connected=False, detail=words(error))
                await abandon(producer)
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            except BaseException:
                await abandon(producer)
                raise
            else:
                self._producer = producer
                self._tell(connected=True)
        return self._producer

    async def send(self, events: Sequence[OutgoingEvent]) -> DeliveryReport:
        """Send events, those of a partition in order, and return what became of each."""
        producer = await self.connect()
        refused: dict[str, str] = {}
        stalled = False
        placed: list[Batch | None] = [None] * len(events)
        try:
            partitions = await self._partitions(producer, events, refused)
            batches = self._pack(producer, events, partitions, placed)
            await self._enqueue_batches(producer, batches)
            handed_over = [batch.future for batch in batches if batch.future is not None]
            stalled = await self._await_confirmation(producer, handed_over)
        except (KafkaError, OSError, TimeoutError) as error:
            _log.info("kafka_send_failed", detail=words(error))
        verdicts = self._classify(events, placed, refused, stalled=stalled)
        if len(verdicts.sent) != len(events):
            self._metrics.producer_replacements.inc()
            await self.close()
        return verdicts

    async def _partitions(
        self, producer: AIOKafkaProducer, events: Sequence[OutgoingEvent], refused: dict[str, str]
    ) -> dict[str, int]:
        """Return how many partitions each topic has; a topic that has none goes to `refused`, with the reason."""
        found: dict[str, int] = {}
        deadline = asyncio.get_running_loop().time() + METADATA_SECONDS
        for topic in dict.fromkeys(each.event.topic for each in events):
            known = producer.client.cluster.partitions_for_topic(topic)
            if known is not None:
                found[topic] = len(known)
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    found[topic] = len(await producer.partitions_for(topic))
            except TopicAuthorizationFailedError as error:
                refused[topic] = words(error)
            except (UnknownTopicOrPartitionError, TimeoutError):
                # aiokafka says the same of a Kafka that is away: ask again, and let that fail if it is.
                metadata = await producer.client.fetch_all_metadata()
                if topic not in metadata.topics():
                    refused[topic] = "the topic does not exist"
        return found

    def _pack(
        self,
        producer: AIOKafkaProducer,
        events: Sequence[OutgoingEvent],
        partitions: dict[str, int],
        placed: list[Batch | None],
    ) -> list[Batch]:
        """Group events into batches a partition, in order, and note in `placed` where each one went."""
        self._sends += 1
        batches: list[Batch] = []
        latest: dict[tuple[str, int], Batch] = {}
        for index, ((topic, key, value, headers, received_ms, _, identity), _) in enumerate(events):
            count = partitions.get(topic)
            if count is None:
                continue
            partition = ((_murmur2(key) & 0x7FFFFFFF) if key is not None else self._sends) % count
            batch = latest.get((topic, partition))
            alone = identity in self._isolated_ids
            if (
                batch is None
                or alone
                or batch.builder.append(timestamp=received_ms, key=key, value=value, headers=headers) is None
            ):
                batch = Batch(topic, partition, producer.create_batch())
                batch.builder.append(timestamp=received_ms, key=key, value=value, headers=headers)
                if alone:
                    batch.builder.close()
                latest[topic, partition] = batch
                batches.append(batch)
            placed[index] = batch
        return batches

    async def _enqueue_batches(self, producer: AIOKafkaProducer, batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.builder.close()
            batch.future = await producer.send_batch(batch.builder, batch.topic, partition=batch.partition)
            # One that is given up while it waits fails later, with nobody left to ask for the reason.
            batch.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def _await_confirmation(self, producer: AIOKafkaProducer, waiting: Collection[asyncio.Future[Any]]) -> bool:
        """Wait until each batch has its answer, the producer has died, or for too long in vain.

        True: some batches have their answer, while others stay silent.
        """
        stall = min(STALLED_TOPIC_TIMEOUT_SECONDS, self._settings.delivery_timeout_seconds)
        deadline = time.monotonic() + self._settings.delivery_timeout_seconds
        while waiting:
            answered, waiting = await answers(producer, waiting, stall)
            if answered or sender_task_done(producer):
                return bool(waiting) and not sender_task_done(producer)
            self._tell(connected=False, detail=f"nothing was confirmed for {stall:.0f} seconds")
            if time.monotonic() >= deadline:
                break
        return False

    def _classify(
        self, events: Sequence[OutgoingEvent], placed: Sequence[Batch | None], refused: dict[str, str], *, stalled: bool
    ) -> DeliveryReport:
        """Sort the events, each in its order, by what Kafka said of its batch."""
        outcomes = {id(batch): batch and batch.outcome() for batch in {id(each): each for each in placed}.values()}
        some_sent = True in outcomes.values()
        if some_sent:
            self._tell(connected=True)
        if all(outcome is True for outcome in outcomes.values()):  # as it should be
            self._isolated_ids.difference_update([event.id for event, _ in events] if self._isolated_ids else ())
            return DeliveryReport(list(events), latest_offsets(placed))
        verdicts = DeliveryReport()
        population = Counter(id(batch) for batch in placed)
        for prepared, batch in zip(events, placed, strict=True):
            topic = prepared.event.topic
            outcome = outcomes[id(batch)]
            if outcome is True:
                verdicts.sent.append(prepared)
                self._isolated_ids.discard(prepared.event.id)
            elif isinstance(outcome, EVENT_ERRORS) and population[id(batch)] == 1:
                reason = "rejected_by_kafka" if isinstance(outcome, InvalidRecord) else "too_large"
                verdicts.rejected.append((prepared, reason, words(outcome)))
                self._isolated_ids.discard(prepared.event.id)
            elif isinstance(outcome, EVENT_ERRORS):
                self._isolated_ids.add(prepared.event.id)
                verdicts.again.append(prepared)
            elif isinstance(outcome, TOPIC_ERRORS):
                verdicts.refuse(prepared, words(outcome))
            elif topic in refused:
                verdicts.refuse(prepared, refused[topic])
            elif outcome is None and stalled and some_sent and batch is not None and batch.future is not None:
                verdicts.refuse(
                    prepared,
                    f"silent for {STALLED_TOPIC_TIMEOUT_SECONDS:.0f} seconds while other topics were confirmed",
                )
            else:
                verdicts.again.append(prepared)
        verdicts.places = latest_offsets(placed)
        return verdicts

    async def close(self) -> None:
        """Give up the producer, within a bound."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await abandon(producer)
