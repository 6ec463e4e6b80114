"""The delivery queue between ingress and publisher: its interface, and the values that it hands out.

Implementations: `journal.Journal` (on disk) and `memory.MemoryQueue` (in memory, for `ack = "kafka"`). Ingress and
publisher use only this interface. All methods are called from the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bridge.errors import DeliveryRejected
from bridge.event import Delivery


class Group(NamedTuple):
    """Deliveries of one group commit: sequence numbers `first` to `last`, `size` bytes when encoded.

    `total` is the running total of bytes up to and including this group, `received_ms` the first delivery's receipt.
    """

    first: int
    last: int
    received_ms: int
    size: int
    total: int
    deliveries: list[Delivery]


class Parked(NamedTuple):
    """A delivery kept until its topic is unblocked; `number` is its sequence number in the topic's log."""

    topic: str
    number: int
    delivery: Delivery


class DeliveryQueue(Protocol):
    """Deliveries between acknowledgement and publication."""

    @property
    def depth(self) -> int:
        """Number of pending deliveries, the parked ones included."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the pending deliveries."""

    @property
    def oldest_pending_ms(self) -> int | None:
        """Receipt of the oldest pending delivery, in ms since the epoch; None when none is pending."""

    @property
    def has_pending_acks(self) -> bool:
        """Whether deliveries wait for an acknowledgement that publishing can delay."""

    @property
    def parked(self) -> dict[str, int]:
        """Number of parked deliveries of each blocked topic."""

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Return why a delivery of this size would be rejected now; None when it would be accepted."""

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Enqueue a delivery; the future is done when it may be acknowledged, or fails with DeliveryRejected.

        Raises DeliveryRejected at once when the queue has no capacity.
        """

    async def read(self) -> list[Group]:
        """Return the next groups in order, waiting until there is at least one."""

    def settle(self, group: Group) -> None:
        """Settle everything up to the end of a group: Kafka has it, and it is not read again."""

    async def settle_and_park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Settle a group, but keep some of its deliveries, each named with its blocked topic."""

    async def park(self, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Keep deliveries that are no longer in a group, each named with its blocked topic."""

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the oldest parked deliveries of a topic, at most `limit`."""

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Remove parked deliveries: Kafka has them."""
