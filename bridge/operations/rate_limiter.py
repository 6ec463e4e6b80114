"""Rate limiting for commands that send requests: Gumlet's API and the load generator."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class RateLimiter:
    """At most `limit` acquisitions within any `seconds`; time that was not used is not made up for by a burst.

    `on_wait` is called with the seconds that a caller has to wait.
    """

    def __init__(self, limit: int, seconds: float, on_wait: Callable[[float], None] | None = None) -> None:
        self._seconds = seconds
        self._on_wait = on_wait
        self._reserved: deque[float] = deque(maxlen=limit)

    async def acquire(self) -> None:
        """Reserve the next free slot and wait for it."""
        now = time.monotonic()
        full = len(self._reserved) == self._reserved.maxlen
        due = max(now, self._reserved[0] + self._seconds) if full else now
        self._reserved.append(due)
        if due > now and self._on_wait is not None:
            self._on_wait(due - now)
        await asyncio.sleep(due - now)
