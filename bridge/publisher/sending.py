"""Sends events to Kafka: chooses partitions, builds batches, waits for their confirmation.

Input: events, in order. Output: a `SendReport`: an event is `sent` only when every in-sync replica has it.

Invariants:

* Each partition has at most one unconfirmed batch, which begins with the partition's first unconfirmed event; behind a
  failed batch nothing of its partition is sent. So a batch that Kafka appends late, when its producer has long been
  replaced, repeats events and never reorders them.
* While Kafka does not respond the same producer keeps its batches and waits: the broker recognizes a repeated batch by
  its sequence number. A producer is replaced only after a batch has failed or was given up: aiokafka numbers a batch
  before it sends it, so that a failure leaves a gap in the numbers.
* No topic is ever created: naming a topic that is not in the metadata would make the broker create it. So metadata is
  requested for all topics, and only those found there are sent to.

What a failure means is decided in `failed_batches` and `unconfirmed`; what follows for an event, by the publisher.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from bridge.kafka.client import describe_error
from bridge.kafka.metadata import topic_state
from bridge.publisher.failed_batches import BatchLimits, Rejection
from bridge.publisher.kafka_producer import ProducerConnection
from bridge.publisher.unconfirmed import STATE_SECONDS, UnconfirmedWatch
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecordOffset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiokafka import AIOKafkaProducer

    from bridge.config.sections import KafkaSettings
    from bridge.event import Delivery, Event
    from bridge.publisher.registry_encoder import RegistryEncoder
    from bridge.telemetry.metrics import Metrics

POLL_SECONDS = 0.25
"""How often unconfirmed batches are looked at."""
CACHED_KEYS = 65_536
MAX_CACHED_KEY_BYTES = 64
"""A longer key is hashed each time: senders choose the keys, and the cache must not grow with what they send."""

_log = structlog.stdlib.get_logger()
_cached_murmur2 = lru_cache(maxsize=CACHED_KEYS)(murmur2)


class OutgoingEvent(NamedTuple):
    """An event to be sent, the delivery that it was made from, and the delivery's number, which gives the order.

    `last_resort`: a dead letter without its body, which has no smaller form.
    """

    event: Event
    delivery: Delivery
    number: int
    last_resort: bool = False


@dataclass(slots=True)
class SendReport:
    """What became of each event: every one is in exactly one of `sent`, `rejected` and `unsent`.

    `sent`: confirmed by every in-sync replica; `offsets` has the positions of at least the last MAX_ENTRIES of them.
    `rejected`: Kafka can never accept these. `unsent`: not confirmed, in order; those whose topic is in `blocked`, with
    the reason, cannot be sent for now, the others can be sent again at once.
    """

    sent: list[OutgoingEvent] = field(default_factory=list)
    offsets: list[RecordOffset] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    unsent: list[OutgoingEvent] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class PartitionQueue:
    """The events of a partition that are to be sent, and the batch that is unconfirmed.

    `error` is the reason why nothing more is sent: the exception of the last batch, or what is wrong with the topic.
    """

    topic: str
    partition: int
    pending: deque[OutgoingEvent] = field(default_factory=deque)
    batch: list[OutgoingEvent] = field(default_factory=list)
    batch_bytes: int = 0
    future: asyncio.Future[Any] | None = None
    sent_at: float = 0.0
    unavailable_checks: int = 0
    error: BaseException | str | None = None


class BatchProducer:
    """Sends events over one aiokafka producer, which is replaced after a failure."""

    def __init__(
        self,
        settings: KafkaSettings,
        metrics: Metrics,
        on_connection: Callable[[str | None], None] = lambda _fault: None,
        *,
        encoder: RegistryEncoder | None = None,
        block_silent: bool = True,
    ) -> None:
        """`on_connection` receives why Kafka does not respond, None when it does; `encoder` None: plain JSON.

        `block_silent`: a topic without a confirmation is reported as blocked while Kafka responds; else waited for.
        """
        self._settings = settings
        self._on_connection = on_connection
        self._encoder = encoder
        self._block_silent = block_silent
        self._connection = ProducerConnection(settings, metrics, on_connection)
        self._unconfirmed = False
        self._sends = itertools.count()
        self.limits = BatchLimits()

    async def connect(self) -> AIOKafkaProducer:
        """Return a producer that has reached Kafka, retrying until it does; then wait for the encoder.

        Kafka comes first, so that the connection state concerns Kafka alone.
        """
        api = await self._connection.connect()
        if self._encoder is not None:
            await self._encoder.prepare()
        return api

    async def send(self, events: Sequence[OutgoingEvent]) -> SendReport:
        """Send events, those of a partition in order, and return what became of each."""
        api = await self.connect()
        try:
            partitions, blocked = await self._partitions(api, events)
        except (KafkaError, OSError) as error:
            _log.warning("metadata_failed", detail=describe_error(error), hint="retrying")
            await self._connection.replace()
            return SendReport(unsent=list(events))
        report = SendReport(blocked=blocked)
        queues = self._distribute(events, partitions)
        self._unconfirmed = True  # until the send is complete: one that is cancelled leaves batches behind
        await self._send_queues(api, queues, report)
        self._unconfirmed = False
        if report.sent:
            self._on_connection(None)
        if any(queue.error is not None for queue in queues):
            await self._connection.replace()
        rejected, unavailable = self.limits.learn(queues)
        if len(report.sent) < len(events):
            report.rejected += rejected
            report.blocked = unavailable | report.blocked
            decided = {outgoing.number for outgoing in report.sent} | {each.outgoing.number for each in report.rejected}
            report.unsent = [outgoing for outgoing in events if outgoing.number not in decided]
        return report

    async def close(self) -> None:
        """Close the producer, within a bound of time."""
        await self._connection.close(flush=not self._unconfirmed)

    async def _partitions(
        self, api: AIOKafkaProducer, events: Sequence[OutgoingEvent]
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Return the number of partitions of each topic, and for those that cannot be sent to, the reason."""
        topics = dict.fromkeys(outgoing.event.topic for outgoing in events)
        cluster = api.client.cluster
        blocked: dict[str, str] = {}
        if any(cluster.partitions_for_topic(topic) is None for topic in topics):
            async with asyncio.timeout(STATE_SECONDS):
                await api.client.force_metadata_update()
            if unknown := [topic for topic in topics if cluster.partitions_for_topic(topic) is None]:
                states = await topic_state(api.client, unknown)
                blocked = {topic: states[topic].detail or "not in Kafka's metadata" for topic in unknown}
        if self._encoder is not None:
            for topic in topics:
                reason = None if topic in blocked else await self._encoder.unavailable_reason(topic)
                if reason is not None:
                    blocked[topic] = reason
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics if topic not in blocked}
        return counts, blocked

    def _distribute(self, events: Sequence[OutgoingEvent], partitions: dict[str, int]) -> list[PartitionQueue]:
        """Return the events of each partition, in order; those without a key go to one partition of each send."""
        queues: dict[tuple[str, int], PartitionQueue] = {}
        number = next(self._sends)
        for outgoing in events:
            topic, key = outgoing.event.topic, outgoing.event.key
            count = partitions.get(topic)
            if count:
                partition = number % count if key is None else choose_partition(key, count)
                queue = queues.get((topic, partition))
                if queue is None:
                    queue = queues[topic, partition] = PartitionQueue(topic, partition)
                queue.pending.append(outgoing)
        return list(queues.values())

    async def _send_queues(self, api: AIOKafkaProducer, queues: Sequence[PartitionQueue], report: SendReport) -> None:
        """Send until each queue is confirmed to its end or has an error."""
        watch = UnconfirmedWatch(api, self._settings, self._on_connection, block_silent=self._block_silent)
        for queue in queues:
            await self._send_next(api, queue, report)
        while waiting := {queue.future: queue for queue in queues if queue.future is not None}:
            done, _ = await asyncio.wait(waiting, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                await self._complete(api, waiting[future], future, report)
            await watch.check(waiting.values(), progress=bool(done))

    async def _send_next(self, api: AIOKafkaProducer, queue: PartitionQueue, report: SendReport) -> None:
        """Send the next batch of a queue, if it has pending events."""
        builder = api.create_batch()
        self._fill(builder, queue, report)
        if not queue.batch:
            return
        # Only a topic in the metadata may be named to aiokafka, which would have the broker create it.
        if queue.partition not in (api.client.cluster.partitions_for_topic(queue.topic) or ()):
            queue.error = "the partition is no longer in Kafka's metadata"
            return
        try:
            queue.future = await api.send_batch(builder, queue.topic, partition=queue.partition)
        except (KafkaError, OSError) as error:
            queue.error = error
            return
        # A batch that is given up may fail later: its exception is retrieved, so that it is not logged as lost.
        queue.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        queue.sent_at = time.monotonic()
        queue.unavailable_checks = 0

    def _fill(self, builder: Any, queue: PartitionQueue, report: SendReport) -> None:
        """Move events from `pending` to `batch`, as many as one batch may have."""
        max_records, max_bytes = self.limits.max_records(queue), self.limits.max_bytes(queue.topic)
        now_ms = int(time.time() * 1000)
        while queue.pending and len(queue.batch) < max_records:
            outgoing = queue.pending[0]
            try:
                event = outgoing.event if self._encoder is None else self._encoder.encode(outgoing.event)
                if queue.batch and builder.size() + len(event.value) > max_bytes:
                    break
                appended = builder.append(
                    timestamp=self.limits.record_time(event, now_ms),
                    key=event.key,
                    value=event.value,
                    headers=event.headers,
                )
            except Exception as error:  # noqa: BLE001 - a fault in one event must not stop the others
                _log.exception("record_not_encoded", topic=queue.topic, id=outgoing.event.id)
                detail = f"{type(error).__name__} while the record was encoded"
                report.rejected.append(Rejection(queue.pending.popleft(), "internal_error", detail))
                continue
            if appended is None:  # full
                break
            queue.batch.append(queue.pending.popleft())
        queue.batch_bytes = builder.size()
        builder.close()

    async def _complete(
        self, api: AIOKafkaProducer, queue: PartitionQueue, future: asyncio.Future[Any], report: SendReport
    ) -> None:
        """Report a batch that Kafka has confirmed and send the next one of its partition, or record why it failed."""
        queue.future = None
        error = KafkaError("the batch was cancelled") if future.cancelled() else future.exception()
        if error is not None:
            queue.error = error
            return
        report.sent += queue.batch
        count, first = len(queue.batch), future.result().offset
        report.offsets += [
            RecordOffset(queue.partition, first + index if first >= 0 else None)
            for index in range(max(0, count - MAX_ENTRIES), count)
        ]
        queue.batch = []
        self.limits.grow(queue)
        await self._send_next(api, queue, report)


def choose_partition(key: bytes, count: int) -> int:
    """Return the partition of a key among `count` as Kafka's own clients choose it: murmur2 of the key, modulo."""
    number: int = _cached_murmur2(key) if len(key) <= MAX_CACHED_KEY_BYTES else murmur2(key)
    return (number & 0x7FFFFFFF) % count
