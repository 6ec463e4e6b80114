"""Forecast of the time until the journal is full: the space that remains, divided by the recent growth.

Input: the journal's size, sampled each second. Output: gauges and the field `time_to_full_seconds` of /status.
"""

from __future__ import annotations

import math
import shutil
from collections import deque
from pathlib import Path

from bridge.config.sections import JournalSettings

WINDOW_SECONDS = 60.0
"""Period over which the growth is measured: longer than one burst, shorter than an outage."""
MIN_OBSERVATION_SECONDS = 5.0
"""Shorter observations give no rate."""


class Forecast:
    """Samples the journal's size and extrapolates it."""

    def __init__(self, settings: JournalSettings) -> None:
        self._settings = settings
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, size_bytes: int) -> None:
        """Add the journal's size at a time of a monotonic clock."""
        self._samples.append((now, size_bytes))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    def free_bytes(self) -> int:
        """Return the bytes free on the journal's disk; 0 when it cannot be read."""
        try:
            return shutil.disk_usage(nearest_existing_parent(self._settings.dir)).free
        except OSError:
            return 0

    def remaining_bytes(self) -> int:
        """Return how many bytes the journal can still store: up to `max_bytes` or the disk's limit."""
        size = self._samples[-1][1] if self._samples else 0
        left = self._settings.max_bytes - size
        return max(0, min(left, self.free_bytes() - self._settings.min_free_bytes))

    def bytes_per_second(self) -> float:
        """Return the recent growth of the journal; negative while it drains."""
        if len(self._samples) < 2:  # noqa: PLR2004 - a rate needs two points
            return 0.0
        (first_time, first_size), (last_time, last_size) = self._samples[0], self._samples[-1]
        observed = last_time - first_time
        return 0.0 if observed < MIN_OBSERVATION_SECONDS else (last_size - first_size) / observed

    def time_to_full_seconds(self) -> float:
        """Return when the journal is full at the recent growth; infinity while it does not grow."""
        rate = self.bytes_per_second()
        return self.remaining_bytes() / rate if rate > 0 else math.inf


def nearest_existing_parent(path: Path) -> Path:
    """Return `path`, or the closest directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
