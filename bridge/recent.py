"""The last things that happened, for the page of the admin port: a few of each, in memory, gone with the process.

Only what a person needs to see that events flow, or why they do not. Never a body, a token or an address.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from bridge.event import Event

KEPT = 20
"""How many of each kind are kept."""


class Recent:
    """What was published, refused and dead-lettered last, the newest first."""

    def __init__(self) -> None:
        self._published: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._refused: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._dead_letters: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def published(self, events: Iterable[Event], now_ms: float) -> None:
        """Note events that Kafka has just confirmed."""
        self._published.extendleft(
            {
                "received_ms": event.received_ms,
                "topic": event.topic,
                "asset": None if event.key is None else event.key.decode(errors="replace"),
                "id": event.id,
                "seconds": round(max(0.0, now_ms - event.received_ms) / 1000, 3),
            }
            for event in events
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
