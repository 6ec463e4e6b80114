"""Moves deliveries from the queue to Kafka, in order, and settles them once Kafka has confirmed their events.

Input: the groups of the delivery queue. Output: records on Kafka. On the way: read → normalize and validate → collect
for the linger → send → settle.

Invariants:

* A delivery is settled only when every in-sync replica has its event, or when it is parked on disk. The order of an
  asset's events within a topic is kept; after a failure, a restart or a replaced producer events can be repeated.
* No event stops the others: an event that Kafka can never accept becomes a dead letter (see `conversion`), a topic
  that accepts none for now parks its own events (see `blocked_topics`), everything else is retried with backoff.
* Nothing that measures is on the path between confirmation and settling with the power to raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.errors import split_fix
from bridge.kafka.client import backoff, describe_error
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.blocked_topics import BlockedTopics
from bridge.publisher.conversion import EventConverter
from bridge.publisher.outgoing import DeliveryReport, OutgoingEvent, RecordEncoder
from bridge.publisher.prefetcher import Prefetcher
from bridge.publisher.producer import BatchProducer
from bridge.queue.interface import DeliveryQueue
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecentActivity
from bridge.telemetry.tracing import Tracing

PROVISION_SECONDS = 60.0
"""Time limit for one attempt to create or verify the topics."""

_log = structlog.stdlib.get_logger()


class PublishSummary(NamedTuple):
    """What a publisher has done: records by topic, dead letters among them; deliveries parked and pending now."""

    published: Counter[str]
    dead_lettered: int
    parked: dict[str, int]
    remaining: int


class Publisher:
    """Moves events from a queue to Kafka while it is running."""

    def __init__(  # noqa: PLR0913 - one for each part that it joins
        self,
        queue: DeliveryQueue,
        normalizer: Normalizer,
        settings: KafkaSettings,
        metrics: Metrics,
        *,
        provision: Callable[[], Awaitable[TopicSurvey]],
        encoder: RecordEncoder | None = None,
        linger_seconds: float = 0.0,
        health: Health | None = None,
        tracing: Tracing | None = None,
        recent: RecentActivity | None = None,
    ) -> None:
        """`provision` checks the topics and creates missing ones; it is called at start and reconnection.

        It is called before a blocked topic is retried, too. Topics that it returns as blocked are not published to.
        `linger_seconds`: time in which events are collected for one produce request.
        """
        self._queue = queue
        self._converter = EventConverter(normalizer)
        self._settings = settings
        self._metrics = metrics
        self._provision = provision
        self._encoder = encoder
        self._prefetcher = Prefetcher(queue, self._converter, linger_seconds)
        self._health = health or Health()
        self._tracing = tracing
        self._recent = recent or RecentActivity()
        self._producer = BatchProducer(settings, metrics, self._set_connected, encoder=encoder)
        self._blocked_topics = BlockedTopics(
            queue,
            self._converter,
            make_producer=lambda: BatchProducer(settings, metrics, encoder=encoder, block_silent=False),
            provision=provision,
            record=self._record,
            health=self._health,
        )
        self._connected: bool | None = None
        self._outage = ""  # the cause of a failed connection that was logged last
        self._check_topics = True
        self._published: Counter[str] = Counter()

    @property
    def connected(self) -> bool:
        """Whether Kafka responded when it was last asked."""
        return bool(self._connected)

    @property
    def summary(self) -> PublishSummary:
        """What was published until now, and what is left."""
        dead = self._published[self._converter.dead_letter_topic]
        return PublishSummary(Counter(self._published), dead, self._queue.parked, self._queue.depth)

    @contextlib.asynccontextmanager
    async def running(self, drain_seconds: float) -> AsyncIterator[Publisher]:
        """Publish while the block runs; on leaving it, drain for at most `drain_seconds` if Kafka responds."""
        try:
            async with self._blocked_topics.running(), asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._prefetcher.run(), name="prefetch"),
                    tasks.create_task(self._publish(), name="publish"),
                ]
                try:
                    yield self
                    await self._drain(drain_seconds)
                finally:
                    for task in work:
                        task.cancel()
        finally:
            await self._producer.close()

    async def _drain(self, seconds: float) -> None:
        """Wait until everything but the parked is published; what is left stays on disk for the next start."""
        self._prefetcher.stop_lingering()
        deadline = time.monotonic() + seconds
        # An unknown connection state counts as connected: the first connection may be under way.
        while self._prefetcher.pending and self._can_publish and time.monotonic() < deadline:  # noqa: ASYNC110 - settled by others
            await asyncio.sleep(0.02)
        _log.info("drain_incomplete" if self._prefetcher.pending else "drained", remaining=self._queue.depth)

    @property
    def _can_publish(self) -> bool:
        return self._connected is not False and (self._encoder is None or self._encoder.available)

    async def _publish(self) -> None:
        await self._provision_topics()
        await self._producer.connect()
        self._check_topics = False
        for topic in self._queue.parked:
            self._blocked_topics.block(topic, "blocked before the restart")
        while True:
            window = await self._prefetcher.next_window()
            if self._check_topics:  # after a reconnection
                self._check_topics = False
                await self._provision_topics()
            count = len(window.events)
            parked = await self._send(window.events)
            if parked:
                by_topic = [(outgoing.event.topic, outgoing.delivery) for outgoing in parked]
                await self._queue.settle_and_park(window.upto, by_topic)
                self._blocked_topics.parked(outgoing.event.topic for outgoing in parked)
            else:
                self._queue.settle(window.upto)
            self._prefetcher.settled(count)

    async def _provision_topics(self) -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(PROVISION_SECONDS):
                    survey = await self._provision()
            except (KafkaError, OSError, TimeoutError) as error:
                self._set_connected(connected=False, detail=describe_error(error))
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            else:
                self._producer.limits.set_topics(survey.limits)
                for topic, reason in survey.blocked.items():
                    self._blocked_topics.block(topic, reason)
                return

    async def _send(self, events: Sequence[OutgoingEvent]) -> list[OutgoingEvent]:
        """Send events until each is on Kafka; return those that are to be parked, in order."""
        held: list[OutgoingEvent] = []
        attempt = 0
        while True:
            sendable: list[OutgoingEvent] = []
            for outgoing in events:
                if outgoing.event.topic in self._blocked_topics:
                    self._blocked_topics.hold(outgoing.event.topic)
                    held.append(outgoing)
                else:
                    sendable.append(outgoing)
            if not sendable:
                return sorted(held, key=_number)
            report = await self._producer.send(sendable)
            self._record(report)
            if len(report.sent) == len(sendable):
                return sorted(held, key=_number)
            unsettled = list(report.retry)
            for topic, blocked in report.blocked_by_topic.items():
                self._blocked_topics.block(topic, blocked.detail)
                unsettled += blocked.events
            for rejection in report.rejected:
                replacement = self._converter.replace(rejection)
                if replacement is None:  # even the dead letter without its body: parked with its topic
                    self._blocked_topics.block(rejection.outgoing.event.topic, rejection.detail)
                unsettled.append(replacement or rejection.outgoing)
            events = sorted(unsettled, key=_number)
            attempt = 0 if report.sent else attempt + 1
            if report.retry and not report.sent:
                await asyncio.sleep(backoff(attempt - 1))

    def _record(self, report: DeliveryReport) -> None:
        """Count what Kafka has confirmed. The parts that measure raise nothing."""
        events = [outgoing.event for outgoing in report.sent]
        self._published.update(event.topic for event in events)
        now_ms = time.time() * 1000
        self._metrics.record_published(events, now_ms)
        self._recent.record_published(events[-MAX_ENTRIES:], report.offsets, now_ms)
        if self._tracing is not None:
            self._tracing.record_published([(outgoing.event, outgoing.delivery) for outgoing in report.sent])

    def _set_connected(self, *, connected: bool, detail: str = "") -> None:
        """Record the connection state; a change of it, and of the cause of a failure, is logged once."""
        servers = self._settings.bootstrap_servers
        if not connected:
            cause, fix = split_fix(detail or f"{servers} does not respond")
            fix = fix or "check the brokers and BRIDGE_KAFKA_…"
            if cause != self._outage:
                log_event = "kafka_disconnected" if self._connected is not False else "kafka_still_disconnected"
                _log.warning(log_event, bootstrap_servers=servers, detail=cause, fix=fix, hint="retrying")
            self._outage = cause
            self._health.report("kafka", "failing", cause, f"{fix}; the bridge retries")
        if connected is self._connected:
            return
        self._connected = connected
        self._check_topics = connected
        self._metrics.kafka_connected.set(connected)
        if connected:
            self._outage = ""
            _log.info("kafka_connected", bootstrap_servers=servers)
            self._health.report("kafka", "ok")


def _number(outgoing: OutgoingEvent) -> int:
    return outgoing.number
