"""Topics that accept no events for now: their deliveries are parked, and sent again in order until Kafka accepts them.

Input: topics that were found blocked. Output: each topic is unblocked when its parked deliveries are on Kafka.

Invariants: while a topic is blocked all its events are parked, behind those parked before; the parked are sent from
the oldest on, by a producer of their own; a topic is unblocked only when nothing of it is parked or about to be, so
nothing overtakes. No topic waits for another one: a parked event that becomes an event of another blocked topic (a
dead letter) is parked there. Each retry waits (about 1 to 10 s). A topic is logged when it is blocked, when the cause
changes and when it is unblocked; meanwhile one line each minute has the number of the topics that are still blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
from aiokafka.errors import KafkaError

from bridge.errors import split_fix
from bridge.kafka.client import describe_error
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.backoff import backoff
from bridge.publisher.dead_letters import DeadLetters
from bridge.publisher.sending import BatchProducer, OutgoingEvent, SendReport
from bridge.queue.interface import DeliveryQueue, Parked
from bridge.telemetry.health import Health

PARKED_RETRY_BATCH = 500
"""Parked events sent at once."""
PARKED_RETRY_FIRST_ATTEMPT = 3
"""The first pause is that of this attempt, about a second: each attempt costs a producer."""
HINT = "the topic's events are parked until then, then published in order; other topics are unaffected"
STILL_BLOCKED_SECONDS = 60.0
"""Time between two log lines about topics that are still blocked for the same cause."""
PROVISION_SECONDS = 60.0
"""Time limit for one attempt to create or verify the topics."""

_log = structlog.stdlib.get_logger()


class BlockedTopics:
    """The blocked topics, each with a task that retries it. Usable while `running`."""

    def __init__(  # noqa: PLR0913 - one for each part that it joins
        self,
        queue: DeliveryQueue,
        dead_letters: DeadLetters,
        *,
        make_producer: Callable[[], BatchProducer],
        provision: Callable[[], Awaitable[TopicSurvey]],
        record: Callable[[SendReport], None],
        health: Health,
    ) -> None:
        """`provision` creates or verifies the topics; `record` counts what Kafka has confirmed."""
        self._queue = queue
        self._dead_letters = dead_letters
        self._make_producer = make_producer
        self._provision = provision
        self._record = record
        self._health = health
        # For each blocked topic the number of its events that are about to be parked.
        self._parking: Counter[str] = Counter()
        # The cause for each blocked topic.
        self._blocked: dict[str, str] = {}
        self._next_reminder = 0.0
        self._tasks: asyncio.TaskGroup | None = None
        self._retries: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Retry blocked topics while the block runs."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                yield
            finally:
                for task in self._retries:
                    task.cancel()

    async def check_topics(self, producer: BatchProducer) -> TopicSurvey:
        """Create or verify the topics, and block those that must not be published to; set the limits of `producer`.

        Raises KafkaError or OSError when Kafka does not respond.
        """
        async with asyncio.timeout(PROVISION_SECONDS):
            survey = await self._provision()
        producer.limits.set_topics(survey.limits)
        for topic, reason in survey.blocked.items():
            self.block(topic, reason)
        return survey

    def block(self, topic: str, detail: str) -> None:
        """Park the events of a topic from now on, and retry it."""
        if topic in self._blocked or self._tasks is None:
            return
        self._report(topic, detail)
        task = self._tasks.create_task(self._retry_parked(topic), name=f"retry {topic}")
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    def split(self, events: Sequence[OutgoingEvent], keep: str = "") -> tuple[list[OutgoingEvent], list[OutgoingEvent]]:
        """Return the events that can be sent, and those to be parked, which are counted until `parked` is called.

        Those of the topic `keep` are to be sent although it is blocked.
        """
        if not self._blocked:
            return list(events), []
        blocked = self._blocked.keys() - {keep}
        parking = [outgoing for outgoing in events if outgoing.event.topic in blocked]
        self._parking.update(outgoing.event.topic for outgoing in parking)
        return [outgoing for outgoing in events if outgoing.event.topic not in blocked], parking

    def parked(self, events: Sequence[OutgoingEvent]) -> None:
        """Count events that are parked now."""
        self._parking.subtract(outgoing.event.topic for outgoing in events)

    def _report(self, topic: str, detail: str) -> None:
        cause, fix = split_fix(detail)
        fix = fix or "`gumlet-bridge topics check`"
        now = time.monotonic()
        if topic not in self._blocked:
            _log.error("topic_blocked", topic=topic, detail=cause, fix=fix, hint=HINT)
            self._next_reminder = now + STILL_BLOCKED_SECONDS
        elif self._blocked[topic] != cause:
            _log.warning("topic_still_blocked", topic=topic, detail=cause, fix=fix, hint=HINT)
        elif now >= self._next_reminder:
            blocked = {"topics": len(self._blocked), "topic": topic}
            _log.warning("topics_still_blocked", **blocked, detail=cause, fix=fix, hint="/status has all of them")
            self._next_reminder = now + STILL_BLOCKED_SECONDS
        self._blocked[topic] = cause
        self._health.report(f"topic {topic}", "failing", f"{topic} is blocked: {cause}", f"{fix}; {HINT}")

    async def _retry_parked(self, topic: str) -> None:
        """Send the parked events of a topic, the oldest first, until none is left; then unblock the topic."""
        producer = self._make_producer()
        attempt = PARKED_RETRY_FIRST_ATTEMPT
        try:
            while True:
                await asyncio.sleep(backoff(attempt))
                attempt += 1
                if (reason := await self._blocking_reason(topic, producer)) is not None:
                    self._report(topic, reason)
                    continue
                while parked := await self._queue.read_parked(topic, PARKED_RETRY_BATCH):
                    settled = await self._send_parked(topic, parked, producer)
                    if not settled:
                        break
                    await self._queue.unpark(settled)
                    attempt = PARKED_RETRY_FIRST_ATTEMPT
                # No await between this condition and the removal: an event about to be parked would be overtaken.
                if not parked and not self._parking[topic]:
                    del self._blocked[topic]
                    _log.info("topic_unblocked", topic=topic)
                    self._health.clear(f"topic {topic}")
                    return
        finally:
            await producer.close()

    async def _blocking_reason(self, topic: str, producer: BatchProducer) -> str | None:
        """Check the topics, and create those that were deleted; return why `topic` must not be published to now."""
        try:
            return (await self.check_topics(producer)).blocked.get(topic)
        except (KafkaError, OSError) as error:
            return describe_error(error)

    async def _send_parked(self, topic: str, parked: Sequence[Parked], producer: BatchProducer) -> list[Parked]:
        """Send parked deliveries once; return those that are settled: on Kafka, or parked for another topic."""
        events: list[OutgoingEvent] = []
        for delivery in parked:
            events.append(self._dead_letters.convert_parked(delivery))
            await asyncio.sleep(0)
        settled: set[int] = set()
        detail = ""
        while events:
            events, parking = self.split(events, keep=topic)
            if parking:
                await self._queue.park([(outgoing.event.topic, outgoing.delivery) for outgoing in parking])
                self.parked(parking)
                settled.update(outgoing.number for outgoing in parking)
            if not events:
                break
            report = await producer.send(events)
            self._record(report)
            settled.update(outgoing.number for outgoing in report.sent)
            for blocked_topic, detail in report.blocked.items():
                self.block(blocked_topic, detail)
            # Those of this topic wait for the next attempt; an event of another topic is sent or parked there.
            events = [outgoing for outgoing in report.unsent if outgoing.event.topic in report.blocked.keys() - {topic}]
            for rejection in report.rejected:
                detail = rejection.detail
                if (replacement := self._dead_letters.replace(rejection)) is not None:
                    events.append(replacement)
                else:
                    self.block(self._dead_letters.topic, detail)
                    if topic != self._dead_letters.topic:
                        events.append(rejection.outgoing)
        if len(settled) < len(parked):
            self._report(topic, detail or "not confirmed")
        return [delivery for delivery in parked if delivery.number in settled]
