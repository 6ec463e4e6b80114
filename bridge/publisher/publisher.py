"""The publisher: what the journal holds goes to Kafka, in order, and is forgotten only once Kafka has it.

The way of an event: read from the backlog → normalized and validated → sent in batches a partition, idempotent,
`acks=all` → its group is settled. Order is kept for each asset within a topic. What can go wrong, and where it goes:

* Kafka is away: waited for without end; nothing is settled meanwhile.
* One event can never be taken (too large, refused by the broker itself): to the dead-letter topic, with the reason.
* A topic refuses (authorization, missing, no leader): its events are parked on disk and tried again, later ones
  wait behind them, the other topics flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.event import Delivery
from bridge.kafka.client import backoff
from bridge.publisher.producer import DeliveryReport, OutgoingEvent, Sender
from bridge.queue.interface import DeliveryQueue, Group, Parked
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import MAX_ENTRIES, RecentActivity
from bridge.telemetry.tracing import Tracing

WINDOW_EVENTS = 1000
"""About how many events are sent at once: enough for full batches, few enough to be repeated after a crash."""
NORMALIZE_CHUNK_EVENTS = 25
"""Events normalized before the loop may serve requests again: below a millisecond."""
YIELD_BACKLOG_EVENTS = 10 * WINDOW_EVENTS
"""A backlog larger than this leaves the loop to the requests that wait for their answer ..."""
YIELD_SECONDS = 0.002
"""... for so long after each slice."""
WINDOW_BYTES = 4 * 1024 * 1024
"""About how many bytes of deliveries are sent at once, where they are large."""
PREFETCH_EVENTS = 2 * WINDOW_EVENTS
PREFETCH_BYTES = 2 * WINDOW_BYTES
"""About how much is prepared at most while a window is on its way: memory does not grow with the backlog."""
PARKED_RETRY_BATCH = 500
"""Parked events sent at once when their topic is tried again."""
PARKED_RETRY_FIRST_ATTEMPT = 3
"""Where the backoff of a topic that refuses begins: at about a second, since trying costs a producer."""
PROVISION_SECONDS = 60.0
"""How long one attempt to make or verify the topics may take."""

_log = structlog.stdlib.get_logger()


class Window(NamedTuple):
    """Events that are sent together, and the group that ends with the last of them."""

    events: list[OutgoingEvent]
    upto: Group


class Publisher:
    """Moves events from a backlog to Kafka until it is stopped."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part that it joins
        self,
        backlog: DeliveryQueue,
        normalizer: Normalizer,
        settings: KafkaSettings,
        metrics: Metrics,
        provision: Callable[[], Awaitable[None]],
        make_sender: Callable[..., Sender] = Sender,
        tracing: Tracing | None = None,
        recent: RecentActivity | None = None,
        health: Health | None = None,
    ) -> None:
        """`provision` makes or verifies the topics; it is tried until Kafka answers, before the first event."""
        self._backlog = backlog
        self._normalizer = normalizer
        self._settings = settings
        self._metrics = metrics
        self._provision = provision
        self._make_sender = make_sender
        self._tracing = tracing
        self._recent = recent or RecentActivity()
        self._health = health or Health()
        self._sender = make_sender(settings, metrics, self._set_connected)
        self._ready: deque[Window] = deque()
        self._ready_events = self._ready_bytes = 0
        self._window_ready = asyncio.Event()
        self._window_taken = asyncio.Event()
        # The topics that refuse, and how many of their events are not yet on disk as parked.
        self._blocked_topics: dict[str, int] = {}
        self._retry_tasks: set[asyncio.Task[None]] = set()
        self._connected: bool | None = None

    @property
    def connected(self) -> bool:
        """Whether Kafka answered when it was last asked."""
        return bool(self._connected)

    @contextlib.asynccontextmanager
    async def running(self, drain_seconds: float) -> AsyncIterator[Publisher]:
        """Publish while the block runs; on leaving it, drain for at most `drain_seconds` if Kafka answers."""
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(self._prefetch(), name="prepare"),
                tasks.create_task(self._publish(tasks), name="publish"),
            ]
            try:
                yield self
                await self._drain(drain_seconds)
            finally:
                for task in (*work, *self._retry_tasks):
                    task.cancel()
        await self._sender.close()

    async def _drain(self, seconds: float) -> None:
        """Wait until nothing flows any more; what is left stays on disk for the next start."""
        deadline = time.monotonic() + seconds
        flowing = self._backlog.depth - sum(self._backlog.parked.values())
        # Not known yet counts as there: an event that came in with the first connection still on its way waits for it.
        while flowing and self._connected is not False and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            flowing = self._backlog.depth - sum(self._backlog.parked.values())
        _log.info("drained" if not flowing else "drain_incomplete", remaining=self._backlog.depth)

    async def _prefetch(self) -> None:
        """Read ahead: turn deliveries into events while others are on their way."""
        while True:
            for group in await self._backlog.read():
                events: list[OutgoingEvent] = []
                for delivery in group.deliveries:
                    events.append(OutgoingEvent(self._normalizer.event(delivery), delivery))
                    if len(events) % NORMALIZE_CHUNK_EVENTS == 0:
                        await asyncio.sleep(YIELD_SECONDS if self._should_yield else 0)
                self._ready.append(Window(events, group))
                self._ready_events += len(events)
                self._ready_bytes += group.size
                self._window_ready.set()
                while self._ready_events >= PREFETCH_EVENTS or self._ready_bytes >= PREFETCH_BYTES:
                    self._window_taken.clear()
                    await self._window_taken.wait()

    @property
    def _should_yield(self) -> bool:
        """Whether a backlog drains beside requests: it has waited long already, they should not."""
        return self._backlog.has_pending_acks and self._backlog.depth > YIELD_BACKLOG_EVENTS

    async def _next_window(self) -> Window:
        """Return all that became ready while the last window was on its way: a request costs the same for many."""
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
        return Window(events, upto)

    async def _publish(self, tasks: asyncio.TaskGroup) -> None:
        await self._provision_topics()
        await self._sender.connect()
        for topic in self._backlog.parked:
            self._block_topic(topic, "it refused before the restart", tasks)
        while True:
            window = await self._next_window()
            parked = await self._send(window.events, tasks)
            if not parked:
                self._backlog.settle(window.upto)
                continue
            await self._backlog.settle_and_park(window.upto, parked)
            for topic, _ in parked:
                self._blocked_topics[topic] -= 1

    async def _provision_topics(self) -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(PROVISION_SECONDS):
                    return await self._provision()
            except (KafkaError, OSError, TimeoutError) as error:
                self._set_connected(connected=False, detail=f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    async def _send(self, events: Sequence[OutgoingEvent], tasks: asyncio.TaskGroup) -> list[tuple[str, Delivery]]:
        """Send events until each is on Kafka; return those that must wait for their topics, with the topics."""
        order = {id(each.delivery): index for index, each in enumerate(events)}
        held: dict[int, tuple[str, Delivery]] = {}
        attempt = 0
        while True:
            flowing: list[OutgoingEvent] = []
            for prepared in events:
                topic = prepared.event.topic
                if topic in self._blocked_topics:
                    self._blocked_topics[topic] += 1
                    held[order[id(prepared.delivery)]] = topic, prepared.delivery
                else:
                    flowing.append(prepared)
            if not flowing:
                return [held[index] for index in sorted(held)]
            verdicts = await self._sender.send(flowing)
            self._record_metrics(verdicts)
            if len(verdicts.sent) == len(flowing) and not held:
                return []
            for topic, (_, words) in verdicts.refused.items():
                self._block_topic(topic, words, tasks)
            rest = [*verdicts.again, *(each for refused, _ in verdicts.refused.values() for each in refused)]
            dead = [self._dead_letter(*each) for each in verdicts.rejected]
            events = sorted([*rest, *dead], key=lambda each: order[id(each.delivery)])
            if verdicts.again and not verdicts.sent:
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    def _dead_letter(self, prepared: OutgoingEvent, reason: str, words: str) -> OutgoingEvent:
        event = self._normalizer.dead_letter(prepared.delivery, reason, words)
        return OutgoingEvent(event, prepared.delivery)

    def _record_metrics(self, verdicts: DeliveryReport) -> None:
        now_ms = time.time() * 1000
        events = [event for event, _ in verdicts.sent]
        self._metrics.record_published(events, now_ms)
        self._recent.record_published(events[-MAX_ENTRIES:], verdicts.places, now_ms)
        if self._tracing is not None:
            self._tracing.record_published(verdicts.sent)

    def _set_connected(self, *, connected: bool, detail: str = "") -> None:
        """Log a change of the connection's state, once."""
        self._metrics.kafka_connected.set(connected)
        if connected is self._connected:
            return
        self._connected = connected
        servers = self._settings.bootstrap_servers
        if connected:
            _log.info("kafka_connected", bootstrap_servers=servers)
            self._health.report("kafka", "ok")
        else:
            _log.warning("kafka_disconnected", bootstrap_servers=servers, detail=detail, hint="attempts go on")
            cause = f"{servers} does not answer: {detail or 'no connection'}"
            self._health.report("kafka", "failing", cause, "check the brokers and BRIDGE_KAFKA_…; the bridge retries")

    def _block_topic(self, topic: str, words: str, tasks: asyncio.TaskGroup) -> None:
        """Let a topic's events wait on disk, and try it again until it takes them."""
        if topic in self._blocked_topics:
            return
        self._blocked_topics[topic] = 0
        _log.error("topic_blocked", topic=topic, detail=words, hint="its events wait on disk, others flow")
        next_step = "gumlet-bridge topics check; the bridge retries and then publishes the parked events in order"
        self._health.report(f"topic {topic}", "failing", f"{topic} is blocked: {words}", next_step)
        mender = tasks.create_task(self._retry_parked(topic), name=f"mend {topic}")
        self._retry_tasks.add(mender)
        mender.add_done_callback(self._retry_tasks.discard)

    async def _retry_parked(self, topic: str) -> None:
        """Send what is parked for a topic, oldest first, over a producer of its own; then let the topic flow again."""
        sender = self._make_sender(self._settings, self._metrics)
        attempt = PARKED_RETRY_FIRST_ATTEMPT
        try:
            while True:
                await asyncio.sleep(backoff(attempt))
                attempt += 1
                while parked := await self._backlog.read_parked(topic, PARKED_RETRY_BATCH):
                    done = await self._send_parked(sender, parked)
                    if not done:
                        break
                    await self._backlog.unpark(done)
                    attempt = PARKED_RETRY_FIRST_ATTEMPT
                # Nothing may come between this look and the release: what is on its way to be parked would be
                # overtaken by what flows.
                if not parked and self._blocked_topics[topic] == 0:
                    del self._blocked_topics[topic]
                    _log.info("topic_unblocked", topic=topic)
                    self._health.clear(f"topic {topic}")
                    return
        finally:
            await sender.close()

    async def _send_parked(self, sender: Sender, parked: Sequence[Parked]) -> list[Parked]:
        """Send parked deliveries once; return those that are on Kafka now."""
        events = [OutgoingEvent(self._normalizer.event(each.delivery), each.delivery) for each in parked]
        verdicts = await sender.send(events)
        self._record_metrics(verdicts)
        done = {id(each.delivery) for each in verdicts.sent}
        if verdicts.rejected:
            dead = await sender.send([self._dead_letter(*each) for each in verdicts.rejected])
            self._record_metrics(dead)
            done |= {id(each.delivery) for each in dead.sent}
        return [each for each in parked if id(each.delivery) in done]
