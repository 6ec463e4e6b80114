"""Watches the batches of one send that get no response, and gives up those that will not get one.

aiokafka repeats a batch by itself while an error may pass, without saying so. So the state of a topic is read when a
batch is unconfirmed for half a second: a topic that is missing, forbidden or without a leader is given up after two
such readings, alone, while the other topics are sent. While no broker responds nothing is given up.

Input: the partition queues with an unconfirmed batch. Output: a queue that is given up has an `error` and no `future`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError, KafkaTimeoutError, RequestTimedOutError

from bridge.kafka.connection import kafka_client
from bridge.kafka.diagnosis import explain
from bridge.kafka.metadata import topic_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiokafka import AIOKafkaProducer

    from bridge.config.sections import KafkaSettings
    from bridge.publisher.sending import PartitionQueue

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
CONFIRMATION_SECONDS = 0.25
"""Time for a Kafka that has just responded to confirm what it has received."""


class UnconfirmedWatch:
    """The watch over the batches of one send."""

    def __init__(
        self,
        api: AIOKafkaProducer,
        settings: KafkaSettings,
        on_connection: Callable[[str | None], None],
        *,
        block_silent: bool,
    ) -> None:
        """`block_silent`: a topic that is silent while Kafka responds is given up; else it is waited for."""
        self._api = api
        self._settings = settings
        self._on_connection = on_connection
        self._block_silent = block_silent
        self._disconnected = False
        self._progress_at = self._checked_at = self._probed_at = time.monotonic()

    async def check(self, queues: Iterable[PartitionQueue], *, progress: bool) -> None:
        """Look at unconfirmed batches, at most every CHECK_SECONDS; `progress`: some were confirmed just now."""
        now = time.monotonic()
        if progress:
            self._progress_at = now
        if now - self._checked_at < CHECK_SECONDS:
            return
        if silent := [queue for queue in queues if queue.future and now - queue.sent_at >= CHECK_SECONDS]:
            await self._give_up_unavailable(silent)
            await self._give_up_producer(silent)
            self._checked_at = time.monotonic()

    async def _give_up_unavailable(self, silent: Sequence[PartitionQueue]) -> None:
        """Give up the batches whose partition is unavailable; report a Kafka that does not respond at all."""
        now = time.monotonic()
        try:
            states = await topic_state(self._api.client, {queue.topic for queue in silent}, STATE_SECONDS)
        except (KafkaError, OSError) as error:
            # A refused connection is certain at once; a broker that is only slow gets time.
            refused = not isinstance(error, (TimeoutError, RequestTimedOutError))
            if not self._disconnected and (refused or now - self._progress_at >= SILENT_SECONDS):
                self._disconnected = True
                self._on_connection(await explain(self._settings, error))
            return
        for queue in silent:
            if queue.future is None or queue.future.done():
                continue
            state = states[queue.topic]
            has_leader = state.leaderless and queue.partition not in state.leaderless
            if state.status != "available" and not has_leader:
                queue.unavailable_checks += 1
                if queue.unavailable_checks >= UNAVAILABLE_CHECKS:
                    queue.error, queue.future = state.detail, None
            elif self._block_silent and now - queue.sent_at >= SILENT_SECONDS:
                queue.error, queue.future = f"not confirmed for {SILENT_SECONDS:.0f} s while Kafka responds", None
            else:
                queue.unavailable_checks = 0

    async def _give_up_producer(self, silent: Sequence[PartitionQueue]) -> None:
        """Give up all batches when none was confirmed for too long and a new connection to Kafka works."""
        now, limit = time.monotonic(), self._settings.delivery_timeout_seconds
        if min(now - self._progress_at, now - self._probed_at) < limit:
            return
        try:
            async with asyncio.timeout(PROBE_SECONDS), kafka_client(self._settings):
                pass
        except (KafkaError, OSError):
            self._probed_at = time.monotonic()
            return
        # A Kafka that was frozen confirms now: confirmations that arrived in the meantime count.
        await asyncio.sleep(CONFIRMATION_SECONDS)
        for queue in silent:
            if queue.future is not None and not queue.future.done():
                queue.error, queue.future = KafkaTimeoutError(f"not confirmed for {limit:g} s"), None
        self._probed_at = time.monotonic()
