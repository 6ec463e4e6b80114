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
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.kafka.client import backoff, describe_error
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.blocked_topics import BlockedTopics
from bridge.publisher.conversion import EventConverter
from bridge.publisher.outgoing import DeliveryReport, OutgoingEvent, RecordEncoder
from bridge.publisher.producer import BatchProducer
from bridge.queue.interface import DeliveryQueue, Group
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecentActivity
from bridge.telemetry.tracing import Tracing

WINDOW_EVENTS = 1000
"""About the events sent at once: enough for full batches, few enough to be repeated after a crash."""
WINDOW_BYTES = 4 * 1024 * 1024
"""About the bytes of deliveries sent at once, where they are large."""
NORMALIZE_CHUNK_EVENTS = 25
"""Events normalized before the loop may serve requests again: below a millisecond."""
YIELD_BACKLOG_EVENTS = 10 * WINDOW_EVENTS
"""A backlog larger than this leaves the loop to requests that wait for their acknowledgement ..."""
YIELD_SECONDS = 0.002
"""... for this long after each chunk."""
PREFETCH_EVENTS = 2 * WINDOW_EVENTS
PREFETCH_BYTES = 2 * WINDOW_BYTES
"""About the most that is normalized while a window is sent: memory does not grow with the backlog."""
READ_SECONDS = 0.02
"""The longest that a window waits for further groups that are in the queue already."""
PROVISION_SECONDS = 60.0
"""Time limit for one attempt to create or verify the topics."""

_log = structlog.stdlib.get_logger()


class SendWindow(NamedTuple):
    """Events that are sent together, and the group that ends with the last of them."""

    events: list[OutgoingEvent]
    upto: Group


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
        self._linger_seconds = linger_seconds
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
        self._ready: deque[SendWindow] = deque()
        self._ready_events = self._ready_bytes = 0
        self._unsettled = 0
        self._window_ready = asyncio.Event()
        self._window_taken = asyncio.Event()
        self._draining = False
        self._connected: bool | None = None
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
                    tasks.create_task(self._prefetch(), name="prefetch"),
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
        self._draining = True
        deadline = time.monotonic() + seconds
        # An unknown connection state counts as connected: the first connection may be under way.
        while self._pending and self._can_publish and time.monotonic() < deadline:  # noqa: ASYNC110 - settled by others
            await asyncio.sleep(0.02)
        _log.info("drain_incomplete" if self._pending else "drained", remaining=self._queue.depth)

    @property
    def _pending(self) -> int:
        """Deliveries that are neither settled nor parked."""
        return self._queue.depth - sum(self._queue.parked.values())

    @property
    def _can_publish(self) -> bool:
        return self._connected is not False and (self._encoder is None or self._encoder.available)

    async def _prefetch(self) -> None:
        """Read ahead: turn deliveries into events while others are sent."""
        while True:
            for group in await self._queue.read():
                events: list[OutgoingEvent] = []
                self._unsettled += len(group.deliveries)
                for number, delivery in enumerate(group.deliveries, group.first):
                    events.append(self._converter.convert(delivery, number))
                    if len(events) % NORMALIZE_CHUNK_EVENTS == 0:
                        await asyncio.sleep(YIELD_SECONDS if self._should_yield else 0)
                self._ready.append(SendWindow(events, group))
                self._ready_events += len(events)
                self._ready_bytes += group.size
                while self._ready_events >= PREFETCH_EVENTS or self._ready_bytes >= PREFETCH_BYTES:
                    self._window_ready.set()
                    self._window_taken.clear()
                    await self._window_taken.wait()
            caught_up = self._pending <= self._unsettled
            if caught_up or self._window_full:
                self._window_ready.set()
            else:  # more can be read at once; if it cannot (a damaged journal), the window is sent all the same
                asyncio.get_running_loop().call_later(READ_SECONDS, self._window_ready.set)
            # Collect: one produce request then serves many events. A full window and a backlog do not wait.
            if caught_up and self._linger_seconds and not self._window_full and not self._draining:
                await asyncio.sleep(self._linger_seconds)

    @property
    def _window_full(self) -> bool:
        return self._ready_events >= WINDOW_EVENTS or self._ready_bytes >= WINDOW_BYTES

    @property
    def _should_yield(self) -> bool:
        """Whether a large backlog is drained while requests wait for their acknowledgement."""
        return self._queue.acknowledging and self._queue.depth > YIELD_BACKLOG_EVENTS

    async def _next_window(self) -> SendWindow:
        """Return what became ready while the last window was sent, up to a window's size."""
        while not self._ready:
            self._window_ready.clear()
            await self._window_ready.wait()
        events, upto = self._ready.popleft()
        size = upto.size
        while self._ready and len(events) + len(self._ready[0].events) <= WINDOW_EVENTS and size < WINDOW_BYTES:
            more, upto = self._ready.popleft()
            events += more
            size += upto.size
        self._ready_events -= len(events)
        self._ready_bytes -= size
        self._window_taken.set()
        return SendWindow(events, upto)

    async def _publish(self) -> None:
        await self._provision_topics()
        await self._producer.connect()
        self._check_topics = False
        for topic in self._queue.parked:
            self._blocked_topics.block(topic, "blocked before the restart")
        while True:
            window = await self._next_window()
            if self._check_topics:  # after a reconnection
                self._check_topics = False
                await self._provision_topics()
            count = len(window.events)
            parked = await self._send(window.events)
            if parked:
                await self._queue.park(window.upto, [(outgoing.event.topic, outgoing.delivery) for outgoing in parked])
                self._blocked_topics.parked(outgoing.event.topic for outgoing in parked)
            else:
                self._queue.settle(window.upto)
            self._unsettled -= count

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
        """Record the connection state; a change is logged once."""
        if connected is self._connected:
            return
        self._connected = connected
        self._check_topics = connected
        self._metrics.kafka_connected.set(connected)
        servers = self._settings.bootstrap_servers
        if connected:
            _log.info("kafka_connected", bootstrap_servers=servers)
            self._health.report("kafka", "ok")
        else:
            _log.warning("kafka_disconnected", bootstrap_servers=servers, detail=detail, hint="retrying")
            cause = f"{servers} does not respond: {detail or 'no connection'}"
            self._health.report("kafka", "failing", cause, "check the brokers and BRIDGE_KAFKA_…; the bridge retries")


def _number(outgoing: OutgoingEvent) -> int:
    return outgoing.number
