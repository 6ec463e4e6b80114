"""The sizing page follows from what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.contract.schemas import Contract
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


def test_replicas_bear_the_rate_with_one_away() -> None:
    """Recomputed from the page: all but one, at half a core each, do the work; and their volumes last the day."""
    cpu, per_event = number(r"Kafka's confirmation \| ([\d.,]+) µs"), number(r"with its frame \| ([\d,]+)")
    cells = {
        title: [each.strip() for each in rest.split("|")]
        for title, rest in re.findall(r"^\| ([^|]+) \|([^|]+\|[^|]+\|[^|]+)\|$", text(), re.MULTILINE)
    }
    rates = [float(each.replace(",", "")) for each in cells["events a second, all together"]]
    replicas = [int(each) for each in cells["replicas, one of which may be down"]]
    day = [float(each.removesuffix(" GiB").replace(",", "")) for each in cells["volume for a day without Kafka, each"]]
    assert rates == [1, 100, 10_000]
    for rate, count, gibibytes in zip(rates, replicas, day, strict=True):
        assert count >= 2
        assert rate * cpu / 1e6 <= (count - 1) * 0.5
        assert 0.8 * gibibytes * GIB * (count - 1) >= rate * 86400 * per_event


def test_partitions_are_the_contracts() -> None:
    """The default that the page names is the one that topics are made with."""
    partitions = {topic.partitions for topic in Contract.load().topics.values() if topic.event_type.startswith("video")}
    assert partitions == {6}
    assert "| 6, the contract's default |" in text()


def test_figures_are_taken_over_from_a_bench(tmp_path: Path) -> None:
    """A round's ratio is multiplied by the floor of the same round, and the middle one counts."""
    names = {
        "floor: CPU an event, 64 connections": [20, 40, 30],
        "acknowledging alone: CPU, 64 connections": [1, 1, 1],
        "whole way: CPU, 64 connections": [3, 2, 2],
        "whole way: answers, 64 connections": [9000, 8000, 10000],
        "backlog: drained without requests, absolute": [30000],
        "whole way: memory at most": [90],
        "backlog: memory at most": [110],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{"name": name, "values": values} for name, values in names.items()]))
    taken = sizing.measured_by(path)
    assert (taken["whole_microseconds"], taken["acknowledge_microseconds"], taken["answers_a_second"]) == (60, 30, 9000)
