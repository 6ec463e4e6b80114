"""Where deliveries wait between ingress and publisher: what both may ask of it, and neither knows which it has.

`journal.Journal` keeps them on disk, `handover.MemoryQueue` in memory while Kafka confirms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue.journal_file import Group, Parked


class DeliveryQueue(Protocol):
    """Where deliveries wait: the journal, or the hand-over without a disk."""

    @property
    def depth(self) -> int:
        """Deliveries not yet on Kafka."""

    @property
    def size_bytes(self) -> int:
        """Bytes they take."""

    @property
    def oldest_pending_ms(self) -> int | None:
        """Receipt of the oldest, in ms since the epoch."""

    @property
    def acknowledging(self) -> bool:
        """Whether deliveries wait for their acknowledgement now."""

    @property
    def parked(self) -> dict[str, int]:
        """Deliveries that wait for a topic that refuses them."""

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Tell why a delivery of so many bytes would be refused now."""

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Take a delivery; the future is done when it may be acknowledged, or fails with DeliveryRejected."""

    async def read(self) -> list[Group]:
        """Return the next groups, in order."""

    def settle(self, group: Group) -> None:
        """Forget everything up to the end of a group."""

    async def park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Settle, but keep some deliveries for their topics."""

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the deliveries that have waited longest for a topic."""

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Forget parked deliveries."""
