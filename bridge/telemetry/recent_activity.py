"""The last published records, rejected requests and dead letters, for the page of the admin port.

Input: what ingress, journal and publisher report. Output: `snapshot`, ready to be written as JSON. Bounded in entries
and in characters, kept in memory, lost with the process. Never holds a body, a token or an address.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from bridge.event import Event
from bridge.telemetry.guard import never_raise

MAX_ENTRIES = 20
"""Entries kept of each kind."""
MAX_COMMITS = 256
"""Journal commits whose time is kept: in steady state an event is published within a few of them."""
MAX_TEXT_CHARS = 300
"""Longest text kept of a key or a detail: a sender chooses both."""


class RecordOffset(NamedTuple):
    """Position of a record in its topic: partition and offset (None: Kafka did not report it)."""

    partition: int
    offset: int | None


class RecentActivity:
    """Keeps the last entries of each kind, the newest first."""

    def __init__(self) -> None:
        self._published: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        self._rejected: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        self._dead_letters: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        # Receipt of a commit's first and last delivery, and the time of its fsync, all in ms since the epoch.
        self._commits: deque[tuple[int, int, float]] = deque(maxlen=MAX_COMMITS)

    def record_commit(self, first_ms: int, last_ms: int, now_ms: float) -> None:
        """Record that the deliveries received from `first_ms` to `last_ms` are durable."""
        self._commits.append((first_ms, last_ms, now_ms))

    def _acknowledge_seconds(self, received_ms: int) -> float | None:
        """Return how long a delivery waited for its commit; None for a commit that is no longer kept."""
        if self._commits and received_ms >= self._commits[0][0]:
            for first_ms, last_ms, committed_ms in reversed(self._commits):
                if first_ms <= received_ms <= last_ms:
                    return _seconds(committed_ms - received_ms)
        return None

    @never_raise
    def record_published(self, events: Sequence[Event], offsets: Sequence[RecordOffset], now_ms: float) -> None:
        """Record events that Kafka has confirmed, with the offset of each."""
        self._published.extendleft(
            {
                "received_ms": event.received_ms,
                "type": event.event_type,
                "topic": event.topic,
                "partition": position.partition,
                "offset": position.offset,
                "asset": None if event.key is None else event.key[:MAX_TEXT_CHARS].decode(errors="replace"),
                "id": event.id,
                "acknowledge_seconds": self._acknowledge_seconds(event.received_ms),
                "publish_seconds": _seconds(now_ms - event.received_ms),
            }
            for event, position in zip(events, offsets, strict=True)
        )

    def record_rejection(self, status: int, reason: str, source: str) -> None:
        """Record a request that was rejected."""
        self._rejected.appendleft(
            {"at_ms": int(time.time() * 1000), "status": status, "reason": reason, "source": source}
        )

    def record_dead_letter(self, event: Event, reason: str, detail: str) -> None:
        """Record an event that was published to the dead-letter topic."""
        self._dead_letters.appendleft(
            {"received_ms": event.received_ms, "reason": reason, "detail": detail[:MAX_TEXT_CHARS], "id": event.id}
        )

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """Return all entries, ready to be written as JSON."""
        return {
            "published": list(self._published),
            "rejected": list(self._rejected),
            "dead_letters": list(self._dead_letters),
        }


def _seconds(milliseconds: float) -> float:
    return round(max(0.0, milliseconds) / 1000, 3)
