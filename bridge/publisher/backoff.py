"""The pause between two attempts: exponential, bounded, with jitter."""

from __future__ import annotations

import random

BACKOFF_SECONDS = (0.2, 10.0)
"""First and longest pause; each is shortened at random by up to half."""


def backoff(attempt: int) -> float:
    """Return seconds to wait after attempt number `attempt` (from 0) has failed."""
    first, longest = BACKOFF_SECONDS
    return min(longest, first * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1)  # noqa: S311 - not a secret
