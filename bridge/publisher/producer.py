"""Batching idempotent producer that reports the outcome of each event.

Input: events, in order. Output: a `DeliveryReport`: an event is `sent` only when every in-sync replica has it.

Invariants:

* Each partition has at most one unconfirmed batch (see `batching`); after a failure the rest of that partition is not
  sent, but reported for a retry in the same order.
* While Kafka does not respond the same producer keeps its batches and waits: the broker recognizes a repeated batch by
  its sequence number. A producer is replaced only after a batch has failed or was given up: aiokafka numbers a batch
  before it sends it, so that a failure leaves a gap in the numbers.
* No topic is created: aiokafka asks for all topics as long as none is named, so a topic is only sent to when it is in
  the metadata already.

What becomes of an event that Kafka does not accept is the publisher's decision.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import BrokerResponseError, KafkaError

from bridge.kafka.client import backoff, describe_error
from bridge.kafka.diagnosis import explain
from bridge.kafka.metadata import topic_state
from bridge.kafka.produce_errors import TOO_LARGE, classify, error_number
from bridge.publisher.batching import BatchLimits, PartitionQueue
from bridge.publisher.kafka_producer import KafkaProducer
from bridge.publisher.outgoing import ConnectionStateCallback, DeliveryReport, OutgoingEvent, RecordEncoder, Rejection
from bridge.publisher.partitioning import choose_partition
from bridge.publisher.sending import STATE_SECONDS, ConfirmedBatch, QueueSender
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecordOffset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaProducer

    from bridge.config.sections import KafkaSettings
    from bridge.telemetry.metrics import Metrics

UNKNOWN_ERRORS = 3
"""Sends in a row in which a topic's batches may fail with an unlisted error before the topic counts as blocked."""

_log = structlog.stdlib.get_logger()


class BatchProducer:
    """Sends events over one aiokafka producer, which is replaced after a failure."""

    def __init__(
        self,
        settings: KafkaSettings,
        metrics: Metrics,
        on_connection: ConnectionStateCallback | None = None,
        *,
        encoder: RecordEncoder | None = None,
        block_silent: bool = True,
    ) -> None:
        """`on_connection` is called each time it is found out whether Kafka responds; `encoder` None: plain JSON.

        `block_silent`: a topic without a confirmation is reported as blocked while Kafka responds; else waited for.
        """
        self._settings = settings
        self._metrics = metrics
        self._on_connection: ConnectionStateCallback = on_connection or (lambda **_: None)
        self._encoder = encoder
        self._block_silent = block_silent
        self._producer: KafkaProducer | None = None
        self._unconfirmed = False
        self.limits = BatchLimits()
        self._unknown_errors: Counter[str] = Counter()
        self._sends = itertools.count()

    async def connect(self) -> AIOKafkaProducer:
        """Return a producer that has reached Kafka, retrying until it does; then wait for the encoder.

        Kafka comes first, so that the connection state concerns Kafka alone.
        """
        attempt = 0
        while self._producer is None:
            producer = KafkaProducer(self._settings)
            try:
                await producer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                self._on_connection(connected=False, detail=await explain(self._settings, error))
                await producer.close(flush=False)
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            except BaseException:
                await producer.close(flush=False)
                raise
            else:
                self._producer, self._unconfirmed = producer, False
                self._on_connection(connected=True)
        if self._encoder is not None:
            await self._encoder.prepare()
        return self._producer.api

    async def send(self, events: Sequence[OutgoingEvent]) -> DeliveryReport:
        """Send events, those of a partition in order, and return what became of each."""
        api = await self.connect()
        try:
            partitions, blocked = await self._partitions(api, events)
        except (KafkaError, OSError, TimeoutError) as error:
            _log.warning("metadata_failed", detail=describe_error(error), hint="retrying")
            await self._replace()
            return DeliveryReport(retry=list(events))
        queues = self._distribute(events, partitions)
        sender = QueueSender(
            api,
            queues,
            settings=self._settings,
            limits=self.limits,
            encoder=self._encoder,
            on_connection=self._on_connection,
            block_silent=self._block_silent,
        )
        self._unconfirmed = True  # until the send is complete: one that is cancelled leaves batches behind
        await sender.run()
        self._unconfirmed = False
        if sender.confirmed:
            self._on_connection(connected=True)
        if any(queue.error is not None for queue in queues):
            await self._replace()
        return self._report(events, queues, blocked, sender)

    async def close(self) -> None:
        """Close the producer, within a bound of time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close(flush=not self._unconfirmed)

    async def _replace(self) -> None:
        """Close the producer with what it has unconfirmed; the next send makes another one."""
        self._metrics.producer_replacements.inc()
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close(flush=False)

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

    def _report(
        self,
        events: Sequence[OutgoingEvent],
        queues: Sequence[PartitionQueue],
        blocked: dict[str, str],
        sender: QueueSender,
    ) -> DeliveryReport:
        """Sort the events by what became of them, each kind in order."""
        report = DeliveryReport(
            sent=[outgoing for batch in sender.confirmed for outgoing in batch.events],
            offsets=_latest_offsets(sender.confirmed),
            rejected=sender.rejected,
        )
        if len(report.sent) == len(events):  # the usual case
            self._unknown_errors.clear()
            return report
        self._count_unknown_errors(queues)
        aged: set[str] = set()
        for queue in queues:
            if queue.error is not None and (detail := self._classify(queue, aged, report)) is not None:
                blocked.setdefault(queue.topic, detail)
        settled = {outgoing.number for outgoing in report.sent} | {each.outgoing.number for each in report.rejected}
        for outgoing in events:
            if outgoing.number not in settled:
                if (detail := blocked.get(outgoing.event.topic)) is not None:
                    report.block(outgoing, detail)
                else:
                    report.retry.append(outgoing)
        return report

    def _classify(self, queue: PartitionQueue, aged: set[str], report: DeliveryReport) -> str | None:
        """Decide on the failed batch of a queue; return the reason when its topic is blocked, else None."""
        error = queue.error
        if isinstance(error, str) or error is None:
            return error
        concern, topic = classify(error), queue.topic
        if concern == "topic" or self._unknown_errors[topic] >= UNKNOWN_ERRORS:
            return describe_error(error)
        _log.warning(
            "batch_failed", topic=topic, partition=queue.partition, detail=describe_error(error), hint="retrying"
        )
        if concern == "record_time" and (topic in aged or self.limits.reject_age(topic)):
            aged.add(topic)
        elif concern != "unknown" and not self.limits.shrink(queue, error):
            reason = "record_too_large" if error_number(error) in TOO_LARGE else "rejected_by_kafka"
            report.rejected.append(Rejection(queue.batch[0], reason, describe_error(error)))
        return None

    def _count_unknown_errors(self, queues: Sequence[PartitionQueue]) -> None:
        """Count the sends in a row in which the broker failed a topic's batches with an unlisted error."""
        failed = {
            queue.topic
            for queue in queues
            if isinstance(queue.error, BrokerResponseError) and classify(queue.error) == "unknown"
        }
        for topic in {queue.topic for queue in queues} - failed:
            del self._unknown_errors[topic]
        self._unknown_errors.update(failed)


def _latest_offsets(confirmed: Sequence[ConfirmedBatch]) -> list[RecordOffset]:
    """Return the positions of the last MAX_ENTRIES confirmed events, in order."""
    offsets: list[RecordOffset] = []
    for batch in reversed(confirmed):
        for index in reversed(range(len(batch.events))):
            if len(offsets) == MAX_ENTRIES:
                return offsets[::-1]
            offsets.append(RecordOffset(batch.partition, batch.offset + index if batch.offset >= 0 else None))
    return offsets[::-1]
