"""The hour of figures that the daemon keeps."""

from __future__ import annotations

from bridge.admin.history import POINTS, History
from bridge.telemetry.metrics import Totals


def totals(number: int, rejected: int = 0) -> Totals:
    """Return totals of a daemon with `number` deliveries, each of 0.5 seconds to the response and 1 to Kafka."""
    return Totals(
        number, number, number, (number * 0.5, number), (float(number), number), {}, {"invalid_token": rejected}, {}
    )


def test_points_are_mean_rates_of_ten_seconds() -> None:
    """Seven deliveries a second are seven in each point; the first is known after ten seconds."""
    history = History()
    for second in range(31):
        history.sample(float(second), second * 1000, totals(7 * second), second)
        assert len(history.points) == second // 10
    assert [(each.at_ms, each.deliveries, each.published, each.depth) for each in history.points] == [
        (10_000, 7.0, 7.0, 10),
        (20_000, 7.0, 7.0, 20),
        (30_000, 7.0, 7.0, 30),
    ]
    assert history.current()["acknowledge_seconds"] == 0.5
    assert history.current()["publish_seconds"] == 1.0
    assert history.published_within(10) == 70


def test_memory_is_bounded_and_an_hour_is_kept() -> None:
    """After three hours there are as many points as after one."""
    history = History()
    for second in range(3 * 3600):
        history.sample(float(second), second * 1000, totals(second), 0)
    assert len(history.points) == POINTS
    assert history.points[-1].at_ms - history.points[0].at_ms == 3590 * 1000


def test_rejections_are_those_of_the_period() -> None:
    """Those of two hours ago are no longer counted; those of the last minutes are."""
    history = History()
    for second in range(2 * 3600):
        rejected = 5 if second < 7000 else 8
        history.sample(float(second), second * 1000, totals(second, rejected), 0)
    assert history.rejections() == {"invalid_token": 3}
    assert history.rejections(5) == {"invalid_token": 3}
    assert history.dead_letters() == {}


def test_without_a_sample_nothing_is_known() -> None:
    """The page may ask before the first second is over."""
    history = History()
    assert (history.current(), history.rejections(), history.published_within(60)) == ({}, {}, 0.0)
