"""The forecast of when the journal is full, from sizes seen at known times."""

from __future__ import annotations

import math
from pathlib import Path

from bridge.admin.capacity import WINDOW_SECONDS, Forecast
from bridge.config.sections import JournalSettings

MAX = 100 * 1024 * 1024


def forecast(path: Path, **settings: int) -> Forecast:
    """Return a forecast of a journal on this machine's disk."""
    return Forecast(JournalSettings(dir=path, max_bytes=MAX, **{"min_free_bytes": 0, **settings}))


def test_a_journal_that_fills_is_full_when_its_room_is_used_up(tmp_path: Path) -> None:
    """What is left of the bound, divided by the rate of the samples."""
    seen = forecast(tmp_path)
    for second in range(11):
        seen.sample(second, second * 1024 * 1024)
    assert seen.bytes_per_second() == 1024 * 1024
    assert seen.time_to_full_seconds() == 90


def test_a_journal_that_shrinks_or_keeps_its_size_is_never_full(tmp_path: Path) -> None:
    """The time is infinite, which Prometheus can compare, not an invented large number."""
    seen = forecast(tmp_path)
    assert seen.time_to_full_seconds() == math.inf
    for second in range(11):
        seen.sample(second, 1000 - second)
    assert seen.time_to_full_seconds() == math.inf


def test_a_short_observation_gives_no_rate(tmp_path: Path) -> None:
    """The first burst after a start does not fire an alert."""
    seen = forecast(tmp_path)
    seen.sample(0, 0)
    seen.sample(1, MAX // 2)
    assert seen.time_to_full_seconds() == math.inf


def test_only_the_last_minute_counts(tmp_path: Path) -> None:
    """An outage that has ended does not affect the forecast."""
    seen = forecast(tmp_path)
    seen.sample(0, 0)
    for second in range(100, 100 + int(WINDOW_SECONDS)):
        seen.sample(second, MAX // 2)
    assert seen.bytes_per_second() == 0


def test_a_disk_without_room_counts_as_full(tmp_path: Path) -> None:
    """The floor of free disk is reached before the journal's own bound."""
    seen = forecast(tmp_path, min_free_bytes=2**60)
    seen.sample(0, 0)
    seen.sample(10, 1000)
    assert seen.remaining_bytes() == 0
    assert seen.time_to_full_seconds() == 0
