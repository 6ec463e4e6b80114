"""One hour of traffic figures, kept by the daemon for the page, /status and the health checks.

`sample` is called each second with running totals. Bounded: 60 one-second samples for current rates and means,
360 points of ten seconds for the chart, 60 one-minute samples of failures by reason.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from bridge.telemetry.metrics import Totals

POINT_SECONDS = 10
POINTS = 360
MINUTES = 60


class Point(NamedTuple):
    """Average rates over the seconds before `at_ms`, and the queue's depth at that time."""

    at_ms: int
    deliveries: float
    acknowledged: float
    published: float
    depth: int


class History:
    """Keeps samples of the last hour."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, Totals]] = deque(maxlen=61)
        self._minutes: deque[Totals] = deque(maxlen=MINUTES + 1)
        self._samples = 0
        self.points: deque[Point] = deque(maxlen=POINTS)

    def sample(self, now: float, at_ms: int, totals: Totals, depth: int) -> None:
        """Add the totals at a time of a monotonic clock, and of the wall clock in milliseconds."""
        self._seconds.append((now, totals))
        if self._samples % 60 == 0:
            self._minutes.append(totals)
        self._samples += 1
        if self._samples > POINT_SECONDS and self._samples % POINT_SECONDS == 1:
            self.points.append(Point(at_ms, *self._rates(POINT_SECONDS), depth))

    def _rates(self, seconds: int) -> tuple[float, float, float]:
        """Return deliveries, acknowledgements and records a second, over the last `seconds`."""
        then, before = self._seconds[max(0, len(self._seconds) - 1 - seconds)]
        now, last = self._seconds[-1]
        elapsed = now - then
        if elapsed <= 0:
            return 0.0, 0.0, 0.0
        pairs = (
            (last.deliveries, before.deliveries),
            (last.acknowledged, before.acknowledged),
            (last.published, before.published),
        )
        deliveries, acknowledged, published = (round((after - start) / elapsed, 2) for after, start in pairs)
        return deliveries, acknowledged, published

    def current(self) -> dict[str, float | None]:
        """Return rates over the last five seconds, and mean latencies over the last minute (None: no delivery)."""
        if not self._seconds:
            return {}
        deliveries, acknowledged, published = self._rates(5)
        before, last = self._seconds[0][1], self._seconds[-1][1]
        return {
            "deliveries": deliveries,
            "acknowledged": acknowledged,
            "published": published,
            "acknowledge_seconds": _mean(before.acknowledge, last.acknowledge),
            "publish_seconds": _mean(before.publish, last.publish),
        }

    def observed_seconds(self) -> float:
        """Return how many seconds the samples cover, at most about a minute."""
        return self._seconds[-1][0] - self._seconds[0][0] if self._seconds else 0.0

    def published_within(self, seconds: int) -> float:
        """Return how many records were published in the last `seconds` (at most 60)."""
        if not self._seconds:
            return 0.0
        return self._seconds[-1][1].published - self._seconds[max(0, len(self._seconds) - 1 - seconds)][1].published

    def rejections(self, minutes: int = MINUTES) -> dict[str, int]:
        """Return rejected requests by reason, over about the last `minutes`."""
        return self._failures("rejections", minutes)

    def dead_letters(self, minutes: int = MINUTES) -> dict[str, int]:
        """Return dead letters by reason, over about the last `minutes`."""
        return self._failures("dead_letters", minutes)

    def _failures(self, kind: str, minutes: int) -> dict[str, int]:
        if not self._seconds:
            return {}
        last: dict[str, float] = getattr(self._seconds[-1][1], kind)
        before: dict[str, float] = getattr(self._minutes[max(0, len(self._minutes) - 1 - minutes)], kind)
        counts = Counter({reason: int(count - before.get(reason, 0)) for reason, count in last.items()})
        return {reason: count for reason, count in counts.most_common() if count > 0}


def _mean(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    count = after[1] - before[1]
    return round((after[0] - before[0]) / count, 6) if count > 0 else None
