"""In-memory queue for `ack = "kafka"`: a delivery is acknowledged when Kafka has its record.

Same interface as the journal. `append`'s future is done when the delivery is settled; it fails with DeliveryRejected
when that takes longer than the acknowledgement timeout, or when the topic is blocked. Gumlet then gets 503 and sends
the delivery again; a record that Kafka confirms after the timeout is a duplicate with the same id.

Invariants: a delivery counts against `max_pending` and `max_pending_bytes` as long as it is in memory, which for one
that was handed to the publisher is until it is settled, whether its sender still waits or not. Each operation on one
delivery takes constant time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from bridge.config.sections import QueueSettings
from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue.interface import Group, Parked

MAX_BATCH_DELIVERIES = 500
"""Maximum number of deliveries in a group."""
OVERHEAD_BYTES = 1024
"""Counted for each delivery in addition to its body: its objects here, in the ingress and in the publisher."""


class _Pending(NamedTuple):
    delivery: Delivery
    future: asyncio.Future[None]

    @property
    def size(self) -> int:
        return len(self.delivery.body) + OVERHEAD_BYTES


class MemoryQueue:
    """Deliveries in memory between acknowledgement and publication. Make one with `MemoryQueue.open`."""

    def __init__(self, settings: QueueSettings, ack_timeout: float) -> None:
        """`ack_timeout`: seconds until a delivery is rejected that is not settled."""
        self._settings = settings
        self._ack_timeout = ack_timeout
        self._appended = 0
        self._waiting: OrderedDict[int, _Pending] = OrderedDict()
        self._in_flight: deque[tuple[int, list[_Pending]]] = deque()
        self._in_flight_count = 0
        self._bytes = 0
        self._last = 0
        self._readable = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: QueueSettings, ack_timeout: float) -> AsyncIterator[MemoryQueue]:
        """Hold an empty queue; on leaving, deliveries that are not settled are rejected."""
        queue = cls(settings, ack_timeout)
        try:
            yield queue
        finally:
            unsettled = [*queue._waiting.values(), *(each for _, group in queue._in_flight for each in group)]
            for pending in unsettled:
                _reject(pending.future, "shutting_down", "the bridge is shutting down")

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Enqueue a delivery; the future is done when Kafka has it. Raises DeliveryRejected when the queue is full."""
        if (rejection := self.check_capacity(len(delivery.body))) is not None:
            raise rejection
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        pending = _Pending(delivery, future)
        timer = loop.call_later(
            self._ack_timeout, _reject, future, "kafka_ack_timeout", "Kafka did not confirm the record in time"
        )
        self._appended += 1
        self._waiting[self._appended] = pending
        self._bytes += pending.size
        future.add_done_callback(partial(self._on_done, self._appended, timer))
        self._readable.set()
        return future

    def _on_done(self, number: int, timer: asyncio.TimerHandle, _future: asyncio.Future[None]) -> None:
        """Drop a delivery whose sender waits no longer, unless the publisher has it already."""
        timer.cancel()
        pending = self._waiting.pop(number, None)
        if pending is not None:
            self._bytes -= pending.size

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Return why a delivery of this size would be rejected now; None when it would be accepted."""
        limits = self._settings
        if self.depth >= limits.max_pending or self._bytes + size + OVERHEAD_BYTES > limits.max_pending_bytes:
            return DeliveryRejected("queue_full", f"{self.depth} deliveries are pending, {self._bytes} bytes")
        return None

    @property
    def depth(self) -> int:
        """Number of deliveries in memory."""
        return len(self._waiting) + self._in_flight_count

    @property
    def size_bytes(self) -> int:
        """Bytes that they count for."""
        return self._bytes

    @property
    def oldest_pending_ms(self) -> int | None:
        """Receipt of the oldest pending delivery, in ms since the epoch."""
        if self._in_flight:
            return self._in_flight[0][1][0].delivery.received_ms
        return next(iter(self._waiting.values())).delivery.received_ms if self._waiting else None

    @property
    def has_pending_acks(self) -> bool:
        """Whether publishing should yield to acknowledgements: never, since publishing is what they wait for."""
        return False

    @property
    def parked(self) -> dict[str, int]:
        """Nothing is parked in memory."""
        return {}

    async def read(self) -> list[Group]:
        """Return the waiting deliveries as one group, waiting until there is one."""
        while not self._waiting:
            self._readable.clear()
            await self._readable.wait()
        group: list[_Pending] = []
        while self._waiting and len(group) < MAX_BATCH_DELIVERIES:
            group.append(self._waiting.popitem(last=False)[1])
        first, self._last = self._last + 1, self._last + len(group)
        self._in_flight.append((self._last, group))
        self._in_flight_count += len(group)
        deliveries = [pending.delivery for pending in group]
        size = sum(len(delivery.body) for delivery in deliveries)
        return [Group(first, self._last, deliveries[0].received_ms, size, 0, deliveries)]

    def settle(self, group: Group) -> None:
        """Acknowledge all deliveries up to the end of `group`: Kafka has them."""
        while self._in_flight and self._in_flight[0][0] <= group.last:
            _, settled = self._in_flight.popleft()
            self._in_flight_count -= len(settled)
            for pending in settled:
                self._bytes -= pending.size
                if not pending.future.done():
                    pending.future.set_result(None)

    async def settle_and_park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Reject the deliveries whose topic is blocked, which come in their order; acknowledge the rest of `group`."""
        blocked = deque(parked)
        for last, pending_group in self._in_flight:
            for pending in pending_group if last <= group.last else ():
                if blocked and blocked[0][1] is pending.delivery:
                    topic, _ = blocked.popleft()
                    _reject(pending.future, "topic_unavailable", f"Kafka accepts no records for {topic}")
        self.settle(group)

    async def park(self, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Nothing is parked in memory."""

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:  # noqa: ARG002 - the interface's signature
        """Nothing is parked in memory."""
        return []

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Nothing is parked in memory."""


def _reject(future: asyncio.Future[None], reason: str, detail: str) -> None:
    if not future.done():
        future.set_exception(DeliveryRejected(reason, detail))
