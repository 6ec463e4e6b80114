"""The way without a disk (`ack = "kafka"`): a delivery waits in memory, and its 200 waits for Kafka.

Same shape as the journal, so that ingress and publisher do not know which one they have. What differs is the
promise: `append`'s future is done when Kafka has confirmed the record, and fails with Refused when that takes
longer than `patience`, or when its topic refuses it. Gumlet then gets 503 and sends again; a record that Kafka
confirms later all the same is a repeat, with the same id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bridge.config.sections import QueueSettings
from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue.interface import Group, Parked

MAX_BATCH_DELIVERIES = 500
"""Most deliveries handed to the publisher at once."""


class MemoryQueue:
    """Deliveries in memory on their way to Kafka."""

    def __init__(self, settings: QueueSettings, patience: float) -> None:
        """Take `patience`: seconds that a delivery may wait. Of `settings` only the bounds on what waits are used."""
        self._settings = settings
        self._ack_timeout = patience
        self._waiting: deque[tuple[Delivery, asyncio.Future[None]]] = deque()
        self._in_flight: dict[int, list[tuple[Delivery, asyncio.Future[None]]]] = {}
        self._bytes = 0
        self._last = 0
        self._readable = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: QueueSettings, patience: float) -> AsyncIterator[MemoryQueue]:
        """Hold an empty hand-over; on leaving, what still waits is refused."""
        handover = cls(settings, patience)
        try:
            yield handover
        finally:
            for pair in [
                *handover._waiting,
                *(each for group in handover._in_flight.values() for each in group),
            ]:
                _reject(pair[1], "shutting_down", "the bridge stops")

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Take a delivery; the future is done when Kafka has it. Raises Refused when too many wait."""
        if (refusal := self._capacity_error(len(delivery.body))) is not None:
            raise refusal
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(
            self._ack_timeout, _reject, future, "kafka_ack_timeout", "Kafka did not confirm in time"
        )
        self._bytes += len(delivery.body)

        def release(_: asyncio.Future[None]) -> None:
            timer.cancel()
            self._bytes -= len(delivery.body)

        future.add_done_callback(release)
        self._waiting.append((delivery, future))
        self._readable.set()
        return future

    def _capacity_error(self, size: int) -> DeliveryRejected | None:
        if self.depth >= self._settings.max_pending or self._bytes + size > self._settings.max_pending_bytes:
            return DeliveryRejected("queue_full", f"{self.depth} deliveries wait for Kafka")
        return None

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Tell why a delivery of so many bytes would be refused now, by its memory: of Kafka the publisher knows."""
        return self._capacity_error(size)

    @property
    def depth(self) -> int:
        """Deliveries that wait for Kafka."""
        return len(self._waiting) + sum(len(group) for group in self._in_flight.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of their bodies."""
        return self._bytes

    @property
    def oldest_pending_ms(self) -> int | None:
        """When the oldest of them was received, in ms since the epoch."""
        for group in self._in_flight.values():
            return group[0][0].received_ms
        return self._waiting[0][0].received_ms if self._waiting else None

    @property
    def acknowledging(self) -> bool:
        """Whether deliveries wait for Kafka now: all that are here do, so there is none to give way to."""
        return False

    @property
    def parked(self) -> dict[str, int]:
        """Nothing is parked without a disk."""
        return {}

    async def read(self) -> list[Group]:
        """Return what waits as one group, waiting until there is something."""
        while True:
            pairs: list[tuple[Delivery, asyncio.Future[None]]] = []
            while self._waiting and len(pairs) < MAX_BATCH_DELIVERIES:
                pair = self._waiting.popleft()
                if not pair[1].done():  # its sender was told 503 already
                    pairs.append(pair)
            if pairs:
                first, self._last = self._last + 1, self._last + len(pairs)
                self._in_flight[self._last] = pairs
                deliveries = [delivery for delivery, _ in pairs]
                size = sum(len(each.body) for each in deliveries)
                return [Group(first, self._last, deliveries[0].received_ms, size, 0, deliveries)]
            self._readable.clear()
            await self._readable.wait()

    def settle(self, group: Group) -> None:
        """Acknowledge all deliveries up to the end of `group`: Kafka has them."""
        for last in [last for last in self._in_flight if last <= group.last]:
            for _, future in self._in_flight.pop(last):
                if not future.done():
                    future.set_result(None)

    async def park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Refuse the deliveries whose topic refuses them, acknowledge the rest up to the end of `group`."""
        refused = {id(delivery): topic for topic, delivery in parked}
        for last in [last for last in self._in_flight if last <= group.last]:
            for delivery, future in self._in_flight[last]:
                if topic := refused.get(id(delivery)):
                    _reject(future, "topic_unavailable", f"Kafka refuses records for {topic}")
        self.settle(group)

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:  # noqa: ARG002 - the journal's signature
        """Nothing is parked without a disk."""
        return []

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Nothing is parked without a disk."""


def _reject(future: asyncio.Future[None], reason: str, detail: str) -> None:
    if not future.done():
        future.set_exception(DeliveryRejected(reason, detail))
