"""The last things that happened, for the page of the admin port: a few of each, in memory, gone with the process.

Only what a person needs to see that events flow, or why they do not. Never a body, a token or an address.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from bridge.event import Event

KEPT = 20
"""How many of each kind are kept."""
COMMITS = 256
"""Commits of the journal whose time is remembered: in steady state an event is published within a few of them."""


class Place(NamedTuple):
    """Where a record lies: its partition, and its offset (None: Kafka did not say)."""

    partition: int
    offset: int | None


class Recent:
    """What was published, refused and dead-lettered last, the newest first."""

    def __init__(self) -> None:
        self._published: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._refused: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._dead_letters: deque[dict[str, Any]] = deque(maxlen=KEPT)
        # Receipts of a commit's first and last delivery, and when it was durable, all in ms since the epoch.
        self._commits: deque[tuple[int, int, float]] = deque(maxlen=COMMITS)

    def committed(self, first_ms: int, last_ms: int, now_ms: float) -> None:
        """Note that the deliveries received from `first_ms` to `last_ms` became durable, and so were acknowledged."""
        self._commits.append((first_ms, last_ms, now_ms))

    def _acknowledge_seconds(self, received_ms: int) -> float | None:
        """Return how long a delivery waited for its commit; None when that was too long ago, or in another life."""
        if self._commits and received_ms >= self._commits[0][0]:
            for first_ms, last_ms, committed_ms in reversed(self._commits):
                if first_ms <= received_ms <= last_ms:
                    return _seconds(committed_ms - received_ms)
        return None

    def published(self, events: Sequence[Event], places: Sequence[Place], now_ms: float) -> None:
        """Note events that Kafka has just confirmed, and where each of them lies."""
        self._published.extendleft(
            {
                "received_ms": event.received_ms,
                "type": event.event_type,
                "topic": event.topic,
                "partition": place.partition,
                "offset": place.offset,
                "asset": None if event.key is None else event.key.decode(errors="replace"),
                "id": event.id,
                "acknowledge_seconds": self._acknowledge_seconds(event.received_ms),
                "publish_seconds": _seconds(now_ms - event.received_ms),
            }
            for event, place in zip(events, places, strict=True)
        )

    def refused(self, status: int, reason: str, source: str) -> None:
        """Note a request that was refused."""
        self._refused.appendleft(
            {"at_ms": int(time.time() * 1000), "status": status, "reason": reason, "source": source}
        )

    def dead_letter(self, event: Event, reason: str, detail: str) -> None:
        """Note an event that went to the dead-letter topic."""
        self._dead_letters.appendleft(
            {"received_ms": event.received_ms, "reason": reason, "detail": detail, "id": event.id}
        )

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """Return all of it, ready to be written as JSON."""
        return {
            "published": list(self._published),
            "refused": list(self._refused),
            "dead_letters": list(self._dead_letters),
        }


def _seconds(milliseconds: float) -> float:
    return round(max(0.0, milliseconds) / 1000, 3)
