"""The sizing page follows from what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.contract.schemas import Contract
from tests.bench.scenarios import RATES
from tests.deploy import sizing
from tests.deploy.external_tools import DEPLOY

GIB = 1024**3
SECONDS = {"minutes": 60, "hours": 3600, "days": 86400, "years": 365.25 * 86400}


@pytest.fixture(scope="module")
def measures() -> dict[str, Any]:
    """Return the measures that are kept."""
    return dict(json.loads((DEPLOY / "sizing.json").read_text()))


def text() -> str:
    """Return the page."""
    return (DEPLOY / "SIZING.md").read_text()


def number(pattern: str) -> float:
    """Return the one number that a pattern finds on the page."""
    (found,) = set(re.findall(pattern, text()))
    return float(found.replace(",", ""))


def test_page_is_made_of_the_measures(measures: dict[str, Any]) -> None:
    """`make generate-deploy` was run since the measures or the page's words changed."""
    assert text() == sizing.page(measures)


def test_bytes_are_those_of_this_code(measures: dict[str, Any]) -> None:
    """A change of the journal's format or of the record changes how many fit on a disk: `make generate-deploy`."""
    measured = sizing.measured_bytes()
    assert measures["bytes"] == {name: pytest.approx(each, rel=0.01) for name, each in measured.items()}


def test_outages_that_volumes_cover_are_computed_from_the_bytes_of_an_event() -> None:
    """Recomputed from what the page itself says: bytes over bytes an event over events a second."""
    per_event = number(r"in the journal, with its frame \| ([\d,]+)")
    full = number(r"([\d,]+) \(a full replica\)")
    rows = re.findall(r"^\| (\d+) GiB[^|]*\|([^|]+\|[^|]+\|[^|]+)\|$", text(), re.MULTILINE)
    assert len(rows) == 3
    for gibibytes, cells in rows:
        for rate, cell in zip((1, 100, full), cells.split("|"), strict=True):
            amount, unit = cell.split()
            told = float(amount) * SECONDS[unit]
            assert abs(told - int(gibibytes) * GIB / per_event / rate) < 0.05 * told


def test_replicas_can_carry_the_rate_with_one_missing() -> None:
    """Recomputed from the page: all but one, each at its planned rate, do the work; and their volumes last the day."""
    planned, per_event = number(r"planned for ([\d,]+) events a second"), number(r"with its frame \| ([\d,]+)")
    cells = {
        title: [cell.strip() for cell in rest.split("|")]
        for title, rest in re.findall(r"^\| ([^|]+) \|([^|]+\|[^|]+\|[^|]+\|[^|]+)\|$", text(), re.MULTILINE)
    }
    rates = [float(cell.replace(",", "")) for cell in cells["events a second, all together"]]
    replicas = [int(cell) for cell in cells["replicas, one of which may be down"]]
    day = [float(cell.removesuffix(" GiB").replace(",", "")) for cell in cells["volume for a day without Kafka, each"]]
    assert rates == [1, 100, 1_000, 10_000]
    for rate, count, gibibytes in zip(rates, replicas, day, strict=True):
        assert count >= 2
        assert rate <= (count - 1) * planned
        assert 0.8 * gibibytes * GIB * (count - 1) >= rate * 86400 * per_event


def test_planned_rate_uses_the_autoscalers_target_at_the_highest_measured_cost(measures: dict[str, Any]) -> None:
    """Two digits are kept, rounded down: the next step would be too much."""
    planned = sizing.planned_rate(measures)
    assert planned * sizing.cost_us(measures, planned, 1) / 1e6 <= 0.7
    assert planned * 1.2 * sizing.cost_us(measures, planned * 1.2, 1) / 1e6 > 0.7


def test_cost_between_two_measured_rates_lies_between_their_costs() -> None:
    """At a measured rate it is the measured cost; beyond the last rate it stays what it is there."""
    measures = {
        "points": [{"rate": 10, "cost_us": [800, 1600]}, {"rate": 1000, "cost_us": [200, 400]}],
        "saturation": {"rate": 4000, "cost_us": [100, 200]},
    }
    costs = [sizing.cost_us(measures, rate, 0) for rate in (1, 10, 100, 1000, 2000, 9000)]
    assert costs == [pytest.approx(cost) for cost in (800, 800, 400, 200, 200 / 2**0.5, 100)]
    assert sizing.cost_us(measures, 100, 1) == pytest.approx(800)


def test_partitions_are_the_contracts() -> None:
    """The default that the page names is the one that topics are made with."""
    partitions = {topic.partitions for topic in Contract.load().topics.values() if topic.event_type.startswith("video")}
    assert partitions == {6}
    assert "| 6, the contract's default |" in text()


def test_costs_of_a_bench_are_kept_as_the_range_of_its_rounds(tmp_path: Path) -> None:
    """Everything else is the median of the rounds."""
    names = {
        name: [30.0, 10.0, 20.0]
        for at in (*(f"at {rate}/s" for rate in RATES), sizing.SATURATION)
        for name in (f"whole way: CPU an event {at}", f"floor: CPU an event {at}", f"acknowledgement: p50 {at}")
    }
    names |= {
        f"{name} at {rate}/s": [3.0] for rate in RATES for name in ("acknowledgement: p99", "receipt to Kafka: p99")
    }
    names |= {f"acknowledgement: p99 at {rate}/s, with 0.5 core": [4.0] for rate in (200, 1000)}
    for name in ("whole way: memory at most", "backlog: memory at most", "backlog: drained without requests, absolute"):
        names[name] = [90.0]
    names |= {f"whole way: responses {sizing.SATURATION}": [9000.0, 8000.0, 10000.0], "idle: CPU": [0.1, 0.2, 0.3]}
    names["whole way: responses at saturation, with 0.5 core"] = [900.0]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{"name": name, "values": values} for name, values in names.items()]))
    measures = sizing.measured_by(path)
    assert [point["cost_us"] for point in measures["points"]] == [[10, 30]] * len(RATES)
    assert measures["saturation"] == {"rate": 9000, "cost_us": [10, 30], "floor_us": 20}
    assert (measures["idle_percent"], measures["rounds"], measures["quota_p99_ms"]) == (0.2, 3, [4.0, 4.0])
