"""How long the journal lasts: its room, divided by the rate at which it filled lately."""

from __future__ import annotations

import math
import shutil
from collections import deque
from pathlib import Path

from bridge.config.sections import JournalSettings

WINDOW_SECONDS = 60.0
"""Over how long the rate is taken: long enough for one burst not to look like an outage."""
MIN_OBSERVATION_SECONDS = 5.0
"""Before this much is known there is no rate."""


class Forecast:
    """Sees the journal's size now and then, and tells when it is full at that rate."""

    def __init__(self, settings: JournalSettings) -> None:
        self._settings = settings
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, size_bytes: int) -> None:
        """Note the journal's size at a time of a monotonic clock."""
        self._samples.append((now, size_bytes))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    def free_bytes(self) -> int:
        """Return the bytes free on the journal's disk; 0 when nobody can tell."""
        try:
            return shutil.disk_usage(_nearest_existing_parent(self._settings.dir)).free
        except OSError:
            return 0

    def remaining_bytes(self) -> int:
        """Return how much more the journal takes: what its own bound leaves, or the disk, whichever is less."""
        size = self._samples[-1][1] if self._samples else 0
        left = self._settings.max_bytes - size
        return max(0, min(left, self.free_bytes() - self._settings.min_free_bytes))

    def bytes_per_second(self) -> float:
        """Return how fast the journal has grown lately; negative while it empties."""
        if len(self._samples) < 2:  # noqa: PLR2004 - a rate is between two points
            return 0.0
        (began, at_first), (ended, at_last) = self._samples[0], self._samples[-1]
        return 0.0 if ended - began < MIN_OBSERVATION_SECONDS else (at_last - at_first) / (ended - began)

    def seconds_until_full(self) -> float:
        """Return when it is full at that rate; infinite while it does not fill."""
        rate = self.bytes_per_second()
        return self.remaining_bytes() / rate if rate > 0 else math.inf


def _nearest_existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
