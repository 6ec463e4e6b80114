"""The rate limiter, with a clock of the test."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bridge.operations.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import pytest


async def test_limit_holds_in_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent callers get their turns at the earliest times at which no window has more than the limit."""
    now = 100.0
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    waits: list[float] = []
    limiter = RateLimiter(2, 10, waits.append)
    await asyncio.gather(*(limiter.acquire() for _ in range(5)))
    assert sleeps == [0, 0, 10, 10, 20]
    assert waits == [10, 10, 20]
    now = 200.0
    await asyncio.gather(*(limiter.acquire() for _ in range(3)))
    assert sleeps[5:] == [0, 0, 10], "unused time is not made up for by a burst"
