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
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.devtools.simulated_assets import generate_assets
from bridge.event import Delivery
from tests.bench.scenarios import QUOTA_CORES, QUOTA_RATES, RATES
from tests.deploy.external_tools import DEPLOY
from tests.support.journal import fill_journal

PAGE = DEPLOY / "SIZING.md"
TEMPLATE = Path(__file__).parent / "sizing.template.md"
MEASURES = DEPLOY / "sizing.json"
DELIVERIES = 5000
GROUP = 24
"""Deliveries in a commit, about as many as under load."""
PLANNED_CORE = 0.7
"""Of a core that a replica is planned to use: the autoscaler's target. The rest is for bursts."""
USABLE = 0.8
"""Of a volume that may fill: reserved segments and BRIDGE_JOURNAL_MIN_FREE_BYTES take the rest."""
GIB = 1024**3
RECEIVED_MS = 1_764_000_000_000
SIZED_RATES = (1, 100, 1_000, 10_000)
SATURATION = "at saturation, 64 connections"
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
    values = {figure["name"]: figure["values"] for figure in json.loads(bench.read_text())}

    def median(name: str, digits: int = 0) -> float:
        found = round(statistics.median(values[name]), digits)
        return int(found) if digits == 0 else found

    def point(rate: float, at: str) -> dict[str, Any]:
        costs = values[f"whole way: CPU an event {at}"]
        return {
            "rate": rate,
            "cost_us": [round(min(costs)), round(max(costs))],
            "floor_us": median(f"floor: CPU an event {at}"),
        }

    return {
        "machine": f"Python {platform.python_version()}, {os.cpu_count()} cores shared with the load and Kafka",
        "rounds": len(values["idle: CPU"]),
        "points": [
            point(rate, f"at {rate}/s")
            | {
                "acknowledgement_ms": [median(f"acknowledgement: {name} at {rate}/s", 1) for name in ("p50", "p99")],
                "publish_p99_ms": median(f"receipt to Kafka: p99 at {rate}/s"),
            }
            for rate in RATES
        ],
        "saturation": point(median(f"whole way: responses {SATURATION}"), SATURATION),
        "idle_percent": median("idle: CPU", 2),
        "responses_a_second": median(f"whole way: responses {SATURATION}"),
        "drained_a_second": median("backlog: drained without requests, absolute"),
        "memory_mib": median("whole way: memory at most"),
        "memory_draining_mib": median("backlog: memory at most"),
        "quota_cores": QUOTA_CORES,
        "quota_p99_ms": [
            median(f"acknowledgement: p99 at {rate}/s, with {QUOTA_CORES:g} core", 1) for rate in QUOTA_RATES
        ],
        "quota_responses": median(f"whole way: responses at saturation, with {QUOTA_CORES:g} core"),
    }


def cost_us(measures: dict[str, Any], rate: float, bound: int) -> float:
    """Return microseconds of CPU an event at a rate: interpolated between the measured points on logarithmic scales.

    `bound` is 0 for the lowest of the rounds, 1 for the highest.
    """
    points = [*measures["points"], measures["saturation"]]
    rates, costs = [point["rate"] for point in points], [point["cost_us"][bound] for point in points]
    if rate <= rates[0] or rate >= rates[-1]:
        return float(costs[0] if rate <= rates[0] else costs[-1])
    above = next(index for index, measured in enumerate(rates) if measured > rate)
    share = math.log(rate / rates[above - 1]) / math.log(rates[above] / rates[above - 1])
    return float(costs[above - 1] * (costs[above] / costs[above - 1]) ** share)


def planned_rate(measures: dict[str, Any]) -> float:
    """Return the events a second at which a replica uses PLANNED_CORE at the highest measured cost."""
    candidates = range(100, measures["saturation"]["rate"], 100)
    return two_digits(max(rate for rate in candidates if rate * cost_us(measures, rate, 1) / 1e6 <= PLANNED_CORE))


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
    size = measures["bytes"]
    record = size["value"] + size["headers"] + size["key"]
    planned = planned_rate(measures)
    replicas = {rate: max(2, math.ceil(rate / planned) + 1) for rate in SIZED_RATES}

    def row(title: str, cells: Iterable[object]) -> str:
        return f"| {title} | {' | '.join(map(str, cells))} |"

    def volume(seconds: int) -> list[str]:
        # All but one replica: one may be down.
        needed = [rate * seconds * size["journal"] / USABLE / GIB / (replicas[rate] - 1) for rate in SIZED_RATES]
        return [f"{max(1, math.ceil(each)):,} GiB" for each in needed]

    def cores(rate: float) -> str:
        shared = min(rate, planned)  # a higher rate is divided among replicas
        low, high = (rate * cost_us(measures, shared, bound) / 1e6 for bound in (0, 1))
        return " to ".join(dict.fromkeys(f"{value:.1g}" if value < 1 else f"{value:.1f}" for value in (low, high)))

    points = [
        row(
            f"{point['rate']:,}",
            [
                between(point["cost_us"]),
                f"{point['floor_us']:,}",
                "{} / {}".format(*point["acknowledgement_ms"]),
                point["publish_p99_ms"],
            ],
        )
        for point in measures["points"]
    ]
    saturation = measures["saturation"]
    points.append(
        row(
            f"{saturation['rate']:,} (saturation)",
            [between(saturation["cost_us"]), f"{saturation['floor_us']:,}", "", ""],
        )
    )
    outages = [
        row(name, [duration(volume_gib * GIB / size["journal"] / rate) for rate in (1, 100, planned)])
        for volume_gib, name in VOLUMES.items()
    ]
    kept = [f"{max(1, round(rate * record * 7 * 86400 / 1e9)):,} GB" for rate in SIZED_RATES]
    rates = [
        row("cores for the work", map(cores, SIZED_RATES)),
        row("replicas, one of which may be down", map(str, replicas.values())),
        row("volume for a day without Kafka, each", volume(86400)),
        row("volume for an hour without Kafka, each", volume(3600)),
        row("into Kafka, times the replication factor", [f"{rate * record / 1000:,.0f} kB/s" for rate in SIZED_RATES]),
        row("kept for 7 days, one copy", kept),
    ]
    figures = {
        name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in (size | measures).items()
    }
    return string.Template(TEMPLATE.read_text()).substitute(
        figures
        | {
            "quota_p99": " / ".join(map(str, measures["quota_p99_ms"])),
            "record": f"{record:,}",
            "planned": f"{planned:,.0f}",
            "held": f"{GIB // size['journal'] // 1000 * 1000:,}",
            "hour": duration(3600 * planned / measures["drained_a_second"]),
            "points": "\n".join(points),
            "outages": "\n".join(outages),
            "rates": "\n".join(rates),
        }
    )


def between(bounds: list[int]) -> str:
    """Return a range, or one number where both ends are the same."""
    return " to ".join(dict.fromkeys(f"{bound:,}" for bound in bounds))


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
