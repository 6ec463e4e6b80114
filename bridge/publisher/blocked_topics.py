"""Topics that accept no events for now: their deliveries are parked, and sent again in order until Kafka accepts them.

Input: topics that were found blocked. Output: each topic is unblocked when its parked deliveries are on Kafka.

Invariants: while a topic is blocked all its events are parked, behind those parked before; the parked are sent from
the oldest on, by a producer of their own; a topic is unblocked only when nothing of it is parked or about to be, so
nothing overtakes. Each retry waits (about 1 to 10 s) and writes one log line when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import structlog
from aiokafka.errors import KafkaError

from bridge.errors import split_fix
from bridge.kafka.client import backoff, describe_error
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.conversion import EventConverter
from bridge.publisher.outgoing import DeliveryReport, OutgoingEvent
from bridge.publisher.producer import BatchProducer
from bridge.queue.interface import DeliveryQueue, Parked
from bridge.telemetry.health import Health

PARKED_RETRY_BATCH = 500
"""Parked events sent at once."""
PARKED_RETRY_FIRST_ATTEMPT = 3
"""The first pause is that of this attempt, about a second: each attempt costs a producer."""
CONVERT_CHUNK_EVENTS = 25
"""Events converted before the loop may serve requests again."""
HINT = "the topic's events are parked until then, then published in order; other topics are unaffected"
PROVISION_SECONDS = 30.0
"""Time limit for creating or verifying topics before an attempt."""

_log = structlog.stdlib.get_logger()


class BlockedTopics:
    """The blocked topics, each with a task that retries it. Usable while `running`."""

    def __init__(  # noqa: PLR0913 - one for each part that it joins
        self,
        queue: DeliveryQueue,
        converter: EventConverter,
        *,
        make_producer: Callable[[], BatchProducer],
        provision: Callable[[], Awaitable[TopicSurvey]],
        record: Callable[[DeliveryReport], None],
        health: Health,
    ) -> None:
        """`provision` creates or verifies the topics; `record` counts what Kafka has confirmed."""
        self._queue = queue
        self._converter = converter
        self._make_producer = make_producer
        self._provision = provision
        self._record = record
        self._health = health
        # For each topic the number of its events that are about to be parked.
        self._unparked: dict[str, int] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._retries: set[asyncio.Task[None]] = set()

    def __contains__(self, topic: str) -> bool:
        return topic in self._unparked

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Retry blocked topics while the block runs."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                yield
            finally:
                for task in self._retries:
                    task.cancel()

    def block(self, topic: str, detail: str) -> None:
        """Park the events of a topic from now on, and retry it."""
        if topic in self._unparked or self._tasks is None:
            return
        self._unparked[topic] = 0
        self._report(topic, detail, "topic_blocked")
        task = self._tasks.create_task(self._retry_parked(topic), name=f"retry {topic}")
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    def hold(self, topic: str) -> None:
        """Count an event of a blocked topic that is about to be parked."""
        self._unparked[topic] += 1

    def parked(self, topics: Iterable[str]) -> None:
        """Count events that are parked now, by their topics."""
        for topic in topics:
            self._unparked[topic] -= 1

    def _report(self, topic: str, detail: str, log_event: str = "topic_still_blocked") -> None:
        cause, fix = split_fix(detail)
        fix = fix or "`gumlet-bridge topics check`"
        level = logging.ERROR if log_event == "topic_blocked" else logging.WARNING
        _log.log(level, log_event, topic=topic, detail=cause, fix=fix, hint=HINT)
        self._health.report(f"topic {topic}", "failing", f"{topic} is blocked: {cause}", f"{fix}; {HINT}")

    async def _retry_parked(self, topic: str) -> None:
        """Send the parked events of a topic, the oldest first, until none is left; then unblock the topic."""
        producer = self._make_producer()
        attempt = PARKED_RETRY_FIRST_ATTEMPT
        try:
            while True:
                await asyncio.sleep(backoff(attempt))
                attempt += 1
                if (reason := await self._provisioning_problem(topic)) is not None:
                    self._report(topic, reason)
                    continue
                while parked := await self._queue.read_parked(topic, PARKED_RETRY_BATCH):
                    done = await self._send_parked(topic, parked, producer)
                    if not done:
                        break
                    await self._queue.unpark(done)
                    attempt = PARKED_RETRY_FIRST_ATTEMPT
                # No await between this condition and the deletion: an event about to be parked would be overtaken.
                if not parked and self._unparked[topic] == 0:
                    del self._unparked[topic]
                    _log.info("topic_unblocked", topic=topic)
                    self._health.clear(f"topic {topic}")
                    return
        finally:
            await producer.close()

    async def _provisioning_problem(self, topic: str) -> str | None:
        """Check the topics, and create those that were deleted; return why `topic` must not be published to now."""
        try:
            async with asyncio.timeout(PROVISION_SECONDS):
                return (await self._provision()).blocked.get(topic)
        except (KafkaError, OSError, TimeoutError) as error:
            return describe_error(error)

    async def _send_parked(self, topic: str, parked: Sequence[Parked], producer: BatchProducer) -> list[Parked]:
        """Send parked deliveries once; return those that are on Kafka now, as events or dead letters."""
        events: list[OutgoingEvent] = []
        for index, each in enumerate(parked, 1):
            events.append(self._converter.convert_parked(topic, each))
            if index % CONVERT_CHUNK_EVENTS == 0:
                await asyncio.sleep(0)
        done: set[int] = set()
        dead_letters = self._converter.dead_letter_topic
        detail = ""
        while events:
            report = await producer.send(events)
            self._record(report)
            done.update(outgoing.number for outgoing in report.sent)
            for blocked in report.blocked_by_topic.values():
                detail = blocked.detail
            for rejection in report.rejected:
                detail = rejection.detail
            replaced = [self._converter.replace(rejection) for rejection in report.rejected]
            # Dead letters go behind those that are parked already.
            waiting = topic != dead_letters and dead_letters in self
            events = [] if waiting else [outgoing for outgoing in replaced if outgoing is not None]
        if len(done) < len(parked):
            self._report(topic, detail or "not confirmed")
        return [each for each in parked if each.number in done]
