"""Moves deliveries from the queue to Kafka, in order, and settles them once Kafka has confirmed their events.

Input: the groups of the delivery queue. Output: records on Kafka. On the way: read, normalize, send, settle.

Invariants:

* A delivery is settled only when every in-sync replica has its event, or when it is parked on disk. The order of an
  asset's events within a topic is kept; after a failure, a restart or a replaced producer events can be repeated.
* No event stops the others: an event that Kafka can never accept becomes a dead letter (`dead_letters`), a topic that
  accepts none for now parks its own events (`blocked_topics`), everything else is retried with backoff.
* What is normalized and not sent is bounded in events and in bytes, whatever the backlog. The linger delays an event by
  at most `linger_seconds`; a backlog and a drain are sent without it.
* Normalizing holds the event loop for at most MAX_BLOCK_SECONDS plus one event.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import attrgetter
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.kafka.client import describe_error
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.backoff import backoff
from bridge.publisher.blocked_topics import BlockedTopics
from bridge.publisher.dead_letters import DeadLetters
from bridge.publisher.kafka_producer import ConnectionState
from bridge.publisher.registry_encoder import RegistryEncoder
from bridge.publisher.sending import BatchProducer, OutgoingEvent, SendReport
from bridge.queue.interface import DeliveryQueue, Group
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecentActivity
from bridge.telemetry.tracing import Tracing

WINDOW_EVENTS = 1000
"""About the events sent at once: enough for full batches, few enough to be repeated after a crash."""
WINDOW_BYTES = 4 * 1024 * 1024
"""About the bytes of deliveries sent at once, where they are large."""
PREFETCH_EVENTS, PREFETCH_BYTES = 2 * WINDOW_EVENTS, 2 * WINDOW_BYTES
"""About the most that is normalized while a window is sent: memory does not grow with the backlog."""
MAX_BLOCK_SECONDS = 0.001
"""Time of normalizing after which the event loop may serve requests."""
SLOW_EVENT_SECONDS, MAX_PAUSE_SECONDS = 0.005, 0.25
"""An event that takes this long (a large nested body) is followed by a pause as long as it took, within bounds."""
YIELD_BACKLOG_EVENTS, YIELD_SECONDS = 10 * WINDOW_EVENTS, 0.002
"""While more deliveries than this are pending and requests wait for their acknowledgement, a pause lasts this long."""
READ_SECONDS = 0.02
"""The longest that a window waits for further groups that are in the queue already."""

_number = attrgetter("number")
_log = structlog.stdlib.get_logger()


class PublishSummary(NamedTuple):
    """What a publisher has done: records by topic, dead letters among them; deliveries parked and pending now."""

    published: Counter[str]
    dead_lettered: int
    parked: dict[str, int]
    remaining: int


class NormalizedGroup(NamedTuple):
    """The events of a group of deliveries (of several groups, where they are sent together), and the last group."""

    events: list[OutgoingEvent]
    upto: Group


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
        encoder: RegistryEncoder | None = None,
        linger_seconds: float = 0.0,
        health: Health | None = None,
        tracing: Tracing | None = None,
        recent: RecentActivity | None = None,
    ) -> None:
        """`provision` checks the topics and creates missing ones: at start, at reconnection, for a blocked topic.

        It returns topics that are not published to. `linger_seconds`: time of collecting for a produce request.
        """
        self._queue = queue
        self._normalizer = normalizer
        self._metrics = metrics
        self._encoder = encoder
        self._linger_seconds = linger_seconds
        self._tracing = tracing
        self._recent = recent or RecentActivity()
        health = health or Health()
        self._connection = ConnectionState(settings, metrics, health)
        self._producer = BatchProducer(settings, metrics, self._connection.report, encoder=encoder)
        self._dead_letters = DeadLetters(normalizer)
        self._blocked_topics = BlockedTopics(
            queue,
            self._dead_letters,
            make_producer=lambda: BatchProducer(settings, metrics, encoder=encoder, block_silent=False),
            provision=provision,
            record=self._record,
            health=health,
        )
        self._normalized: deque[NormalizedGroup] = deque()
        self._prefetched_events = self._prefetched_bytes = self._unsettled_count = 0
        self._blocked_seconds = 0.0
        self._window_ready, self._window_taken = asyncio.Event(), asyncio.Event()
        self._published: Counter[str] = Counter()

    @property
    def connected(self) -> bool:
        """Whether Kafka responded to the last request."""
        return bool(self._connection.connected)

    @property
    def summary(self) -> PublishSummary:
        """What was published until now, and what is left."""
        dead = self._published[self._dead_letters.topic]
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

    @property
    def _pending(self) -> int:
        """Deliveries that are neither settled nor parked."""
        return self._queue.depth - sum(self._queue.parked.values())

    async def _prefetch(self) -> None:
        """Normalize the queue's groups while others are sent."""
        while True:
            for group in await self._queue.read():
                events = await self._normalize(group)
                self._normalized.append(NormalizedGroup(events, group))
                self._prefetched_events += len(events)
                self._prefetched_bytes += group.size
                while self._prefetched_events >= PREFETCH_EVENTS or self._prefetched_bytes >= PREFETCH_BYTES:
                    self._window_ready.set()
                    self._window_taken.clear()
                    await self._window_taken.wait()
            caught_up = self._pending <= self._unsettled_count
            full = self._prefetched_events >= WINDOW_EVENTS or self._prefetched_bytes >= WINDOW_BYTES
            if caught_up or full:
                self._window_ready.set()
            else:  # more can be read at once; if it cannot (a damaged journal), the window is sent all the same
                asyncio.get_running_loop().call_later(READ_SECONDS, self._window_ready.set)
            # The events above go at once; those that arrive during this pause form the next produce request.
            if caught_up and self._linger_seconds and not full:
                await asyncio.sleep(self._linger_seconds)

    async def _normalize(self, group: Group) -> list[OutgoingEvent]:
        """Return the events of a group's deliveries; requests are served in between."""
        self._unsettled_count += len(group.deliveries)
        events: list[OutgoingEvent] = []
        started = time.monotonic()
        for number, delivery in enumerate(group.deliveries, group.first):
            events.append(OutgoingEvent(self._normalizer.event(delivery), delivery, number))
            blocked = self._blocked_seconds + time.monotonic() - started
            if blocked >= MAX_BLOCK_SECONDS:
                # A large backlog yields to requests that wait for their acknowledgement; so does a slow event, because
                # a request needs several turns of the loop and must not wait for a slow event in each.
                yields = self._queue.has_pending_acks and self._queue.depth > YIELD_BACKLOG_EVENTS
                pause = min(blocked, MAX_PAUSE_SECONDS) if blocked >= SLOW_EVENT_SECONDS else 0.0
                await asyncio.sleep(max(pause, YIELD_SECONDS if yields else 0.0))
                self._blocked_seconds, started = 0.0, time.monotonic()
        self._blocked_seconds += time.monotonic() - started  # groups of one event count too
        return events

    async def _next_window(self) -> NormalizedGroup:
        """Return what became ready while the last window was sent, up to a window's size."""
        while not self._normalized:
            self._window_ready.clear()
            await self._window_ready.wait()
        events, upto = self._normalized.popleft()
        size = upto.size
        while (
            self._normalized and len(events) + len(self._normalized[0].events) <= WINDOW_EVENTS and size < WINDOW_BYTES
        ):
            more, upto = self._normalized.popleft()
            events += more
            size += upto.size
        self._prefetched_events -= len(events)
        self._prefetched_bytes -= size
        self._window_taken.set()
        return NormalizedGroup(events, upto)

    async def _publish(self) -> None:
        """Send windows and settle them, until cancelled."""
        await self._provision_topics()
        await self._producer.connect()
        self._connection.restored = False
        for topic in self._queue.parked:
            self._blocked_topics.block(topic, "blocked before the restart")
        while True:
            window = await self._next_window()
            if self._connection.restored:
                self._connection.restored = False
                await self._provision_topics()
            parked = await self._send(window.events)
            if parked:
                by_topic = [(outgoing.event.topic, outgoing.delivery) for outgoing in parked]
                await self._queue.settle_and_park(window.upto, by_topic)
                self._blocked_topics.parked(parked)
            else:
                self._queue.settle(window.upto)
            self._unsettled_count -= len(window.events)

    async def _send(self, events: list[OutgoingEvent]) -> list[OutgoingEvent]:
        """Send events until each is on Kafka; return those that are to be parked, in order."""
        parked: list[OutgoingEvent] = []
        attempt = 0
        while True:
            events, blocked = self._blocked_topics.split(events)
            parked += blocked
            if not events:
                return sorted(parked, key=_number)
            report = await self._producer.send(events)
            self._record(report)
            if len(report.sent) == len(events):
                return sorted(parked, key=_number)
            events = self._resolve(report)
            attempt = 0 if report.sent else attempt + 1
            if not report.sent and any(outgoing.event.topic not in report.blocked for outgoing in report.unsent):
                await asyncio.sleep(backoff(attempt - 1))

    def _resolve(self, report: SendReport) -> list[OutgoingEvent]:
        """Return the events that follow those which were not sent, in order: the same, or dead letters."""
        for topic, detail in report.blocked.items():
            self._blocked_topics.block(topic, detail)
        events = list(report.unsent)
        for rejection in report.rejected:
            replacement = self._dead_letters.replace(rejection)
            if replacement is None:  # even the dead letter without its body: parked with its topic
                self._blocked_topics.block(rejection.outgoing.event.topic, rejection.detail)
            events.append(replacement or rejection.outgoing)
        return sorted(events, key=_number)

    def _record(self, report: SendReport) -> None:
        """Count what Kafka has confirmed. The parts that measure raise nothing."""
        events = [outgoing.event for outgoing in report.sent]
        self._published.update(event.topic for event in events)
        now_ms = time.time() * 1000
        self._metrics.record_published(events, now_ms)
        self._recent.record_published(events[-MAX_ENTRIES:], report.offsets[-MAX_ENTRIES:], now_ms)
        if self._tracing is not None:
            self._tracing.record_published([(outgoing.event, outgoing.delivery) for outgoing in report.sent])

    async def _provision_topics(self) -> None:
        """Create or verify the topics, retrying until Kafka responds."""
        for attempt in itertools.count():
            try:
                await self._blocked_topics.check_topics(self._producer)
            except (KafkaError, OSError) as error:
                self._connection.report(describe_error(error))
                await asyncio.sleep(backoff(attempt))
            else:
                return

    async def _drain(self, seconds: float) -> None:
        """Wait until everything but the parked is published; what is left stays on disk for the next start."""
        self._linger_seconds = 0.0
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            # An unknown connection state counts as connected: the first connection may be under way.
            if self._connection.connected is False or (self._encoder is not None and not self._encoder.available):
                break
            await asyncio.sleep(0.02)
        _log.info("drain_incomplete" if self._pending else "drained", remaining=self._queue.depth)
