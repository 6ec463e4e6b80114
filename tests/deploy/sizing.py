"""Writes deploy/SIZING.md from what was measured: `make bench generate-sizing`, on a machine that does nothing else.

deploy/sizing.json keeps the measures: those of time and memory are taken from `make bench`, those of bytes here, from a
mixture of events that is the same each time. All else on the page is computed by `make generate-deploy`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.devtools.simulated_assets import generate_assets
from bridge.event import Delivery
from tests.deploy.external_tools import DEPLOY
from tests.support.journal import fill_journal

PAGE = DEPLOY / "SIZING.md"
TEMPLATE = Path(__file__).parent / "sizing.template.md"
MEASURES = DEPLOY / "sizing.json"
DELIVERIES = 5000
GROUP = 24
"""Deliveries in a commit, about as many as under load."""
PLANNED_CORE = 0.5
"""Of a core that a replica is planned to use: the rest is for bursts, and for the backlog after an outage."""
USABLE = 0.8
"""Of a volume that may fill: reserved segments and BRIDGE_JOURNAL_MIN_FREE_BYTES take the rest."""
GIB = 1024**3
RECEIVED_MS = 1_764_000_000_000
RATES = (1, 100, 10_000)
VOLUMES = {1: "1 GiB", 8: "8 GiB (of the StatefulSet's 10)", 100: "100 GiB"}


def deliveries() -> Iterator[Delivery]:
    """Yield the simulator's mixture, always the same."""
    bodies = (orjson.dumps(body) for asset in generate_assets(1) for _, body in asset.events())
    return (Delivery(RECEIVED_MS + number, "default", each) for number, each in enumerate(islice(bodies, DELIVERIES)))


def measured_bytes() -> dict[str, int]:
    """Return the mean bytes of an event: as received, in the journal's file, and as a record on Kafka."""
    normalizer = Normalizer(Contract.load())
    sums = dict.fromkeys(("body", "value", "headers", "key"), 0)
    every = deliveries()
    with TemporaryDirectory() as directory:
        size = fill_journal(Path(directory), iter(lambda: list(islice(every, GROUP)), []))
    for delivery in deliveries():
        event = normalizer.event(delivery)
        sums["body"] += len(delivery.body)
        sums["value"] += len(event.value)
        sums["headers"] += sum(len(name) + len(value) for name, value in event.headers)
        sums["key"] += len(event.key or b"")
    return {name: round(each / DELIVERIES) for name, each in (sums | {"journal": size}).items()}


def measured_by(bench: Path) -> dict[str, Any]:
    """Return what the page needs of the figures that `make bench` wrote."""
    values = {each["name"]: each["values"] for each in json.loads(bench.read_text())}
    floor = values["floor: CPU an event, 64 connections"]

    def microseconds(name: str) -> float:
        """Each round's ratio is to the floor of that round."""
        return float(round(statistics.median(a * b for a, b in zip(values[name], floor, strict=True)), 1))

    return {
        "machine": f"Python {platform.python_version()}, {os.cpu_count()} cores shared with the load and Kafka",
        "rounds": len(floor),
        "floor_microseconds": round(statistics.median(floor), 1),
        "acknowledge_microseconds": microseconds("acknowledging alone: CPU, 64 connections"),
        "whole_microseconds": microseconds("whole way: CPU, 64 connections"),
        "answers_a_second": round(statistics.median(values["whole way: answers, 64 connections"])),
        "drained_a_second": round(statistics.median(values["backlog: drained without requests, absolute"])),
        "memory_mib": round(statistics.median(values["whole way: memory at most"])),
        "memory_draining_mib": round(statistics.median(values["backlog: memory at most"])),
    }


def two_digits(value: float) -> float:
    """Round down to two significant digits."""
    unit: float = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit


def duration(seconds: float) -> str:
    """Say how long in the unit that reads best."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size or unit == "minutes":
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    raise AssertionError


def page(measures: dict[str, Any]) -> str:
    """Return SIZING.md."""
    size, cpu = measures["bytes"], measures["whole_microseconds"]
    record = size["value"] + size["headers"] + size["key"]
    planned = two_digits(PLANNED_CORE * 1e6 / cpu)
    replicas = {rate: max(2, math.ceil(rate / planned) + 1) for rate in RATES}

    def row(title: str, cells: Iterator[str] | list[str]) -> str:
        return f"| {title} | {' | '.join(cells)} |"

    def volume(seconds: int) -> list[str]:
        # All but one replica: one may be down.
        needed = [rate * seconds * size["journal"] / USABLE / GIB / (replicas[rate] - 1) for rate in RATES]
        return [f"{max(1, math.ceil(each)):,} GiB" for each in needed]

    outages = [
        row(name, [duration(volume_gib * GIB / size["journal"] / rate) for rate in (1, 100, planned)])
        for volume_gib, name in VOLUMES.items()
    ]
    rates = [
        row("cores for the work", [f"{rate * cpu / 1e6:.5f}".rstrip("0") for rate in RATES]),
        row("replicas, one of which may be down", [str(replicas[rate]) for rate in RATES]),
        row("volume for a day without Kafka, each", volume(86400)),
        row("volume for an hour without Kafka, each", volume(3600)),
        row("into Kafka, times the replication factor", [f"{rate * record / 1000:,.0f} kB/s" for rate in RATES]),
        row("kept for 7 days, one copy", [f"{max(1, round(rate * record * 7 * 86400 / 1e9)):,} GB" for rate in RATES]),
    ]
    figures = {name: f"{each:,}" for name, each in size.items()} | {
        name: f"{each:,}" if isinstance(each, int) else str(each) for name, each in measures.items() if name != "bytes"
    }
    return string.Template(TEMPLATE.read_text()).substitute(
        figures,
        record=f"{record:,}",
        core=f"{two_digits(1e6 / cpu):,.0f}",
        planned=f"{planned:,.0f}",
        held=f"{GIB // size['journal'] // 1000 * 1000:,}",
        hour=duration(3600 * planned / measures["drained_a_second"]),
        outages="\n".join(outages),
        rates="\n".join(rates),
    )


def write(bench: Path | None = None) -> None:
    """Measure the bytes, take over a bench's figures where one is given, and write the page."""
    measures = json.loads(MEASURES.read_text()) if bench is None else measured_by(bench)
    measures["bytes"] = measured_bytes()
    MEASURES.write_text(json.dumps(measures, indent=2) + "\n")
    PAGE.write_text(page(measures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=Path, help="what `make bench` wrote: .cache/bench.json")
    write(parser.parse_args().bench)
