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
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from bridge.backlog import Backlog
from bridge.config_sections import KafkaSettings
from bridge.event import Delivery
from bridge.journal_file import Group, Parked
from bridge.kafka import backoff
from bridge.metrics import Metrics
from bridge.normalize import Normalizer
from bridge.recent import KEPT
from bridge.sender import Prepared, Sender, Verdicts

WINDOW_EVENTS = 1000
"""About how many events are sent at once: enough for full batches, few enough to be repeated after a crash."""
SLICE_EVENTS = 25
"""Events normalized before the loop may serve requests again: below a millisecond."""
GIVE_WAY_EVENTS = 10 * WINDOW_EVENTS
"""A backlog larger than this leaves the loop to the requests that wait for their answer ..."""
GIVE_WAY_SECONDS = 0.002
"""... for so long after each slice."""
WINDOW_BYTES = 4 * 1024 * 1024
"""About how many bytes of deliveries are sent at once, where they are large."""
AHEAD_EVENTS = 2 * WINDOW_EVENTS
AHEAD_BYTES = 2 * WINDOW_BYTES
"""About how much is prepared at most while a window is on its way: memory does not grow with the backlog."""
MEND_EVENTS = 500
"""Parked events sent at once when their topic is tried again."""
MEND_FIRST_ATTEMPT = 3
"""Where the backoff of a topic that refuses begins: at about a second, since trying costs a producer."""
PROVISION_SECONDS = 60.0
"""How long one attempt to make or verify the topics may take."""

_log = structlog.stdlib.get_logger()


class Window(NamedTuple):
    """Events that are sent together, and the group that ends with the last of them."""

    events: list[Prepared]
    upto: Group


class Publisher:
    """Moves events from a backlog to Kafka until it is stopped."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part that it joins
        self,
        backlog: Backlog,
        normalizer: Normalizer,
        settings: KafkaSettings,
        metrics: Metrics,
        provision: Callable[[], Awaitable[None]],
        make_sender: Callable[..., Sender] = Sender,
    ) -> None:
        """`provision` makes or verifies the topics; it is tried until Kafka answers, before the first event."""
        self._backlog = backlog
        self._normalizer = normalizer
        self._settings = settings
        self._metrics = metrics
        self._provision = provision
        self._make_sender = make_sender
        self._sender = make_sender(settings, metrics, self._kafka_is)
        self._ready: deque[Window] = deque()
        self._ready_events = self._ready_bytes = 0
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        # The topics that refuse, and how many of their events are not yet on disk as parked.
        self._on_the_way: dict[str, int] = {}
        self._menders: set[asyncio.Task[None]] = set()
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
                tasks.create_task(self._prepare(), name="prepare"),
                tasks.create_task(self._publish(tasks), name="publish"),
            ]
            try:
                yield self
                await self._drain(drain_seconds)
            finally:
                for task in (*work, *self._menders):
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
        _log.info("drained" if not flowing else "stopped_before_drained", left=self._backlog.depth)

    async def _prepare(self) -> None:
        """Read ahead: turn deliveries into events while others are on their way."""
        while True:
            for group in await self._backlog.read():
                events: list[Prepared] = []
                for delivery in group.deliveries:
                    events.append(Prepared(self._normalizer.event(delivery), delivery))
                    if len(events) % SLICE_EVENTS == 0:
                        await asyncio.sleep(GIVE_WAY_SECONDS if self._gives_way else 0)
                self._ready.append(Window(events, group))
                self._ready_events += len(events)
                self._ready_bytes += group.size
                self._news.set()
                while self._ready_events >= AHEAD_EVENTS or self._ready_bytes >= AHEAD_BYTES:
                    self._taken.clear()
                    await self._taken.wait()

    @property
    def _gives_way(self) -> bool:
        """Whether a backlog drains beside requests: it has waited long already, they should not."""
        return self._backlog.acknowledging and self._backlog.depth > GIVE_WAY_EVENTS

    async def _next_window(self) -> Window:
        """Return all that became ready while the last window was on its way: a request costs the same for many."""
        while not self._ready:
            self._news.clear()
            await self._news.wait()
        events, upto = self._ready.popleft()
        size = upto.size
        while self._ready and len(events) + len(self._ready[0].events) <= WINDOW_EVENTS and size < WINDOW_BYTES:
            more, upto = self._ready.popleft()
            events += more
            size += upto.size
        self._ready_events -= len(events)
        self._ready_bytes -= size
        self._taken.set()
        return Window(events, upto)

    async def _publish(self, tasks: asyncio.TaskGroup) -> None:
        await self._provision_topics()
        await self._sender.connect()
        for topic in self._backlog.parked:
            self._hold_back(topic, "it refused before the restart", tasks)
        while True:
            window = await self._next_window()
            parked = await self._send(window.events, tasks)
            if not parked:
                self._backlog.settle(window.upto)
                continue
            await self._backlog.park(window.upto, parked)
            for topic, _ in parked:
                self._on_the_way[topic] -= 1
            self._report_parked()

    async def _provision_topics(self) -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(PROVISION_SECONDS):
                    return await self._provision()
            except (KafkaError, OSError, TimeoutError) as error:
                self._kafka_is(connected=False, detail=f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    async def _send(self, events: Sequence[Prepared], tasks: asyncio.TaskGroup) -> list[tuple[str, Delivery]]:
        """Send events until each is on Kafka; return those that must wait for their topics, with the topics."""
        order = {id(each.delivery): index for index, each in enumerate(events)}
        held: dict[int, tuple[str, Delivery]] = {}
        attempt = 0
        while True:
            flowing: list[Prepared] = []
            for prepared in events:
                topic = prepared.event.topic
                if topic in self._on_the_way:
                    self._on_the_way[topic] += 1
                    held[order[id(prepared.delivery)]] = topic, prepared.delivery
                else:
                    flowing.append(prepared)
            if not flowing:
                return [held[index] for index in sorted(held)]
            verdicts = await self._sender.send(flowing)
            self._count(verdicts)
            if len(verdicts.sent) == len(flowing) and not held:
                return []
            for topic, (_, words) in verdicts.refused.items():
                self._hold_back(topic, words, tasks)
            rest = [*verdicts.again, *(each for refused, _ in verdicts.refused.values() for each in refused)]
            dead = [self._dead_letter(*each) for each in verdicts.rejected]
            events = sorted([*rest, *dead], key=lambda each: order[id(each.delivery)])
            if verdicts.again and not verdicts.sent:
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    def _dead_letter(self, prepared: Prepared, reason: str, words: str) -> Prepared:
        event = self._normalizer.dead_letter(prepared.delivery, reason, words)
        return Prepared(event, prepared.delivery)

    def _count(self, verdicts: Verdicts) -> None:
        sent = verdicts.sent
        now = time.time() * 1000
        for topic, count in Counter(event.topic for event, _ in sent).items():
            self._metrics.records.labels(topic).inc(count)
            if topic == self._normalizer.dead_letter_topic:
                self._metrics.dead_lettered(event for event, _ in sent if event.topic == topic)
        for received_ms, count in Counter(event.received_ms for event, _ in sent).items():
            self._metrics.publish_seconds.observe((now - received_ms) / 1000, count)
        if self._metrics.tracing is not None:
            self._metrics.tracing.published(sent)
        events = [event for event, _ in sent]
        self._metrics.published(events, now)
        self._metrics.recent.published(events[-KEPT:], verdicts.places, now)

    def _report_parked(self) -> None:
        self._metrics.parked.clear()
        for topic, count in self._backlog.parked.items():
            self._metrics.parked.labels(topic).set(count)

    def _kafka_is(self, *, connected: bool, detail: str = "") -> None:
        """Log a change of the connection's state, once."""
        self._metrics.kafka_connected.set(connected)
        if connected is self._connected:
            return
        self._connected = connected
        servers = self._settings.bootstrap_servers
        if connected:
            _log.info("kafka_connected", bootstrap_servers=servers)
        else:
            _log.warning("kafka_away", bootstrap_servers=servers, detail=detail, meaning="attempts go on")

    def _hold_back(self, topic: str, words: str, tasks: asyncio.TaskGroup) -> None:
        """Let a topic's events wait on disk, and try it again until it takes them."""
        if topic in self._on_the_way:
            return
        self._on_the_way[topic] = 0
        _log.error("topic_refuses", topic=topic, detail=words, meaning="its events wait on disk, others flow")
        mender = tasks.create_task(self._mend(topic), name=f"mend {topic}")
        self._menders.add(mender)
        mender.add_done_callback(self._menders.discard)

    async def _mend(self, topic: str) -> None:
        """Send what is parked for a topic, oldest first, over a producer of its own; then let the topic flow again."""
        sender = self._make_sender(self._settings, self._metrics)
        attempt = MEND_FIRST_ATTEMPT
        try:
            while True:
                await asyncio.sleep(backoff(attempt))
                attempt += 1
                while parked := await self._backlog.parked_for(topic, MEND_EVENTS):
                    done = await self._send_parked(sender, parked)
                    if not done:
                        break
                    await self._backlog.unpark(done)
                    self._report_parked()
                    attempt = MEND_FIRST_ATTEMPT
                # Nothing may come between this look and the release: what is on its way to be parked would be
                # overtaken by what flows.
                if not parked and self._on_the_way[topic] == 0:
                    del self._on_the_way[topic]
                    _log.info("topic_flows_again", topic=topic)
                    return
        finally:
            await sender.close()

    async def _send_parked(self, sender: Sender, parked: Sequence[Parked]) -> list[Parked]:
        """Send parked deliveries once; return those that are on Kafka now."""
        events = [Prepared(self._normalizer.event(each.delivery), each.delivery) for each in parked]
        verdicts = await sender.send(events)
        self._count(verdicts)
        done = {id(each.delivery) for each in verdicts.sent}
        if verdicts.rejected:
            dead = await sender.send([self._dead_letter(*each) for each in verdicts.rejected])
            self._count(dead)
            done |= {id(each.delivery) for each in dead.sent}
        return [each for each in parked if id(each.delivery) in done]
