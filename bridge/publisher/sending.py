"""Sends the queues of partitions over one producer, a batch at a time each, and watches those that get no response.

Input: the queues of one send. Output: each queue is confirmed to its end, or has an `error`, and `confirmed` lists the
batches that Kafka has.

aiokafka repeats a batch by itself while an error may pass, without saying so. So the state of a topic is read when a
batch is unconfirmed for half a second: a topic that is missing, forbidden or without a leader is given up after two
such readings, alone, while the other topics are sent. While no broker responds nothing is given up.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from aiokafka.errors import KafkaError, KafkaTimeoutError, RequestTimedOutError

from bridge.kafka.connection import kafka_client
from bridge.kafka.diagnosis import explain
from bridge.kafka.metadata import topic_state
from bridge.publisher.outgoing import OutgoingEvent, RecordEncoder, Rejection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaProducer

    from bridge.config.sections import KafkaSettings
    from bridge.publisher.batching import BatchLimits, PartitionQueue
    from bridge.publisher.outgoing import ConnectionStateCallback

POLL_SECONDS = 0.25
"""How often unconfirmed batches are looked at."""
CHECK_SECONDS = 0.5
"""Time without a confirmation after which the state of a batch's topic is read, and the pause between two readings."""
UNAVAILABLE_CHECKS = 2
"""Readings in a row that must find a topic unavailable: a broker that has just started may not know it yet."""
STATE_SECONDS = 1.0
"""Time limit for reading the state of topics."""
SILENT_SECONDS = 10.0
"""Time without a confirmation after which Kafka counts as disconnected when no broker responds, and the topic as
blocked when one does. Longer than a broker's session (9 s): the partitions of a broker that died have new leaders."""
PROBE_SECONDS = 10.0
"""Time limit for a new connection to Kafka, which shows whether the producer is at fault."""

_log = structlog.stdlib.get_logger()


class ConfirmedBatch(NamedTuple):
    """Events that Kafka has, and the offset of the first of them (negative: not reported)."""

    partition: int
    offset: int
    events: list[OutgoingEvent]


class QueueSender:
    """Sends the queues of one send."""

    def __init__(  # noqa: PLR0913 - what a send needs, by name
        self,
        api: AIOKafkaProducer,
        queues: Sequence[PartitionQueue],
        *,
        settings: KafkaSettings,
        limits: BatchLimits,
        encoder: RecordEncoder | None,
        on_connection: ConnectionStateCallback,
        block_silent: bool,
    ) -> None:
        """`block_silent`: a topic that is silent while Kafka responds gets an error; else it is waited for."""
        self._api = api
        self._queues = queues
        self._settings = settings
        self._limits = limits
        self._encoder = encoder
        self._on_connection = on_connection
        self._block_silent = block_silent
        self.confirmed: list[ConfirmedBatch] = []
        self.rejected: list[Rejection] = []
        self._disconnected = False
        self._progress_at = self._checked_at = self._probed_at = time.monotonic()

    async def run(self) -> None:
        """Send until each queue is confirmed or has an error."""
        for queue in self._queues:
            await self._send_next(queue)
        while waiting := {queue.future: queue for queue in self._queues if queue.future is not None}:
            done, _ = await asyncio.wait(waiting, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                await self._complete(waiting[future], future)
            now = time.monotonic()
            if done:
                self._progress_at = now
            silent = [queue for queue in waiting.values() if queue.future and now - queue.sent_at >= CHECK_SECONDS]
            if silent and now - self._checked_at >= CHECK_SECONDS:
                await self._check(silent)
                self._checked_at = time.monotonic()

    async def _send_next(self, queue: PartitionQueue) -> None:
        """Send the next batch of a queue, if it has pending events."""
        builder = self._api.create_batch()
        self._fill(builder, queue)
        if not queue.batch:
            return
        # Only a topic in the metadata may be named to aiokafka, which would have the broker create it.
        if queue.partition not in (self._api.client.cluster.partitions_for_topic(queue.topic) or ()):
            queue.error = "the partition is no longer in Kafka's metadata"
            return
        try:
            queue.future = await self._api.send_batch(builder, queue.topic, partition=queue.partition)
        except (KafkaError, OSError) as error:
            queue.error = error
            return
        # A batch that is given up may fail later: its exception is retrieved, so that it is not logged as lost.
        queue.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        queue.sent_at = time.monotonic()
        queue.unavailable_checks = 0

    def _fill(self, builder: Any, queue: PartitionQueue) -> None:
        """Move events from `pending` to `batch`, as many as one batch may have."""
        max_records, max_bytes = self._limits.max_records(queue), self._limits.max_bytes(queue.topic)
        now_ms = int(time.time() * 1000)
        while queue.pending and len(queue.batch) < max_records:
            outgoing = queue.pending[0]
            try:
                event = outgoing.event if self._encoder is None else self._encoder.encode(outgoing.event)
                if queue.batch and builder.size() + len(event.value) > max_bytes:
                    break
                appended = builder.append(
                    timestamp=self._limits.record_time(event, now_ms),
                    key=event.key,
                    value=event.value,
                    headers=event.headers,
                )
            except Exception as error:  # noqa: BLE001 - a fault in one event must not stop the others
                _log.exception("record_not_encoded", topic=queue.topic, id=outgoing.event.id)
                detail = f"{type(error).__name__} while the record was encoded"
                self.rejected.append(Rejection(queue.pending.popleft(), "internal_error", detail))
                continue
            if appended is None:  # full
                break
            queue.batch.append(queue.pending.popleft())
        queue.batch_bytes = builder.size()
        builder.close()

    async def _complete(self, queue: PartitionQueue, future: asyncio.Future[Any]) -> None:
        queue.future = None
        error = KafkaError("the batch was cancelled") if future.cancelled() else future.exception()
        if error is not None:
            queue.error = error
            return
        self.confirmed.append(ConfirmedBatch(queue.partition, future.result().offset, queue.batch))
        queue.batch = []
        self._limits.confirmed(queue)
        await self._send_next(queue)

    async def _check(self, silent: Sequence[PartitionQueue]) -> None:
        """Read the state of the topics whose batches are unconfirmed, and give up those that are unavailable."""
        now = time.monotonic()
        try:
            states = await topic_state(self._api.client, {queue.topic for queue in silent}, STATE_SECONDS)
        except (KafkaError, OSError, TimeoutError) as error:
            # A refused connection is certain at once; a broker that is only slow gets time.
            refused = not isinstance(error, (TimeoutError, RequestTimedOutError))
            if not self._disconnected and (refused or now - self._progress_at >= SILENT_SECONDS):
                self._disconnected = True
                self._on_connection(connected=False, detail=await explain(self._settings, error))
            await self._replace_if_kafka_responds(silent)
            return
        for queue in silent:
            if queue.future is None or queue.future.done():
                continue
            state = states[queue.topic]
            ours = queue.partition in state.leaderless or not state.leaderless
            if state.status != "available" and ours:
                queue.unavailable_checks += 1
                if queue.unavailable_checks >= UNAVAILABLE_CHECKS:
                    queue.error, queue.future = state.detail, None
            elif self._block_silent and now - queue.sent_at >= SILENT_SECONDS:
                queue.error, queue.future = f"not confirmed for {SILENT_SECONDS:.0f} s while Kafka responds", None
            else:
                queue.unavailable_checks = 0
        await self._replace_if_kafka_responds(silent)

    async def _replace_if_kafka_responds(self, silent: Sequence[PartitionQueue]) -> None:
        """Give up the producer when it got nothing confirmed for too long and a new connection to Kafka works."""
        now, limit = time.monotonic(), self._settings.delivery_timeout_seconds
        if min(now - self._progress_at, now - self._probed_at) < limit:
            return
        try:
            async with asyncio.timeout(PROBE_SECONDS), kafka_client(self._settings):
                pass
        except (KafkaError, OSError, TimeoutError):
            self._probed_at = time.monotonic()
            return
        # A Kafka that was frozen confirms now: confirmations that arrived in the meantime count.
        await asyncio.sleep(POLL_SECONDS)
        for queue in silent:
            if queue.future is not None and not queue.future.done():
                queue.error, queue.future = KafkaTimeoutError(f"not confirmed for {limit:g} s"), None
        self._probed_at = time.monotonic()
