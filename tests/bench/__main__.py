"""`make bench`: the cost of the bridge compared with a minimal aiohttp handler, in one run on one machine.

Every figure is a ratio to the floor measured in the same round, and the rounds are repeated: machines are noisy, and
an absolute figure says more about the machine. Servers take turns within a round. Loopback only; bounded in time.
Prints a table with each figure's target, met or not, and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bridge.contract.schemas import schemas_directory
from bridge.queue.journal import QUARANTINE_NAME
from bridge.queue.log import Log
from tests.support import brokers
from tests.support.daemon import environment, wait_for

from . import load, servers
from .servers import Server

BODY = schemas_directory() / "examples/video.status.ready/full.in.json"
IMPORTS = "import aiohttp, aiokafka, pydantic_settings"


class Figure(NamedTuple):
    """One result: name, values of the rounds, unit, and target (None: for information)."""

    name: str
    values: list[float]
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        """The middle value of the rounds."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.at_most is not None:
            return f"{'met' if self.median <= self.at_most else 'NOT met'} (≤ {self.at_most:g})"
        if self.at_least is not None:
            return f"{'met' if self.median >= self.at_least else 'NOT met'} (≥ {self.at_least:g})"
        return ""


class Bench:
    """Runs the servers and collects figures."""

    def __init__(self, scratch: Path, kafka: str, seconds: float) -> None:
        self._scratch = scratch
        self._kafka = kafka
        self._seconds = seconds
        self._runs = 0
        self.figures: dict[str, Figure] = {}

    def note(
        self, name: str, value: float, unit: str, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Add a round's value to a figure."""
        self.figures.setdefault(name, Figure(name, [], unit, at_most, at_least)).values.append(value)

    @contextmanager
    def bridge(self, kafka: str | None, backlog: int = 0) -> Iterator[Server]:
        """Run the daemon on a new journal that holds `backlog` deliveries, on topics of its own."""
        self._runs += 1
        directory = self._scratch / f"run{self._runs}"
        if backlog:
            servers.fill_journal(directory / "journal", backlog, BODY.read_bytes())
        with servers.bridge(directory, kafka, f"bench{self._runs}.") as server:
            yield server

    def cost(self, server: Server, connections: int, body: Path = BODY) -> tuple[float, load.Loaded]:
        """Return microseconds of CPU an event, until the last is on Kafka where there is one, and what the load saw."""
        load.closed(server.url, body, self._scratch, connections=connections, seconds=1)
        self._settle(server)
        before = server.cpu_seconds()
        seen = load.closed(server.url, body, self._scratch, connections=connections, seconds=self._seconds)
        self._settle(server)
        assert seen.errors == 0, f"{seen.errors} requests were not acknowledged"
        return (server.cpu_seconds() - before) / seen.requests * 1e6, seen

    def _settle(self, server: Server) -> None:
        if server.daemon is not None and server.daemon.status()["kafka"]["connected"]:
            wait_for(server.daemon.drained, 120, "the drain")

    def side_by_side(self, connections: int) -> None:
        """Measure floor, acknowledgement alone (no Kafka) and the whole way, in turn."""
        with servers.floor() as server:
            floor, floor_seen = self.cost(server, connections)
        with self.bridge(None) as server:
            alone, alone_seen = self.cost(server, connections)
        with self.bridge(self._kafka) as server:
            whole, whole_seen = self.cost(server, connections)
            memory = server.memory_mib()
        at = f"{connections} connections"
        self.note(f"floor: CPU an event, {at}", floor, "µs")
        self.note(f"floor: answers, {at}", floor_seen.rate, "/s")
        self.note(f"acknowledging alone: CPU, {at}", alone / floor, "x floor", at_most=1.3)
        self.note(f"whole way: CPU, {at}", whole / floor, "x floor", at_most=1.6)
        self.note(f"whole way: answers, {at}", whole_seen.rate, "/s")
        self.note(f"whole way: p99 at saturation, {at}", whole_seen.p99 / floor_seen.p99, "x floor", at_most=2)
        self.note(f"Kafka gone: p99 at saturation, {at}", alone_seen.p99 / whole_seen.p99, "x with Kafka", at_most=1.5)
        self.note("whole way: memory at most", memory, "MiB", at_most=120)
        if connections == 64:
            self._half(whole_seen.rate / 2)

    def _half(self, rate: float) -> None:
        """Measure the tail at half of saturation, open loop."""
        if load.missing():
            return
        with servers.floor() as server:
            floor = load.steady(server.url, BODY, rate, seconds=self._seconds)
        with self.bridge(self._kafka) as server:
            bridge = load.steady(server.url, BODY, rate, seconds=self._seconds)
        self.note("whole way: p99 at half of saturation", bridge.p99, "ms")
        self.note(
            "whole way: p99 at half of saturation against the floor", bridge.p99 / floor.p99, "x floor", at_most=2.5
        )

    def backlog(self, count: int) -> None:
        """Measure a backlog: opening it, draining it without and with requests, memory."""
        floor_rate = self.figures["floor: answers, 64 connections"].median
        saturation = self.figures["whole way: answers, 64 connections"].median
        directory = self._scratch / "opened"
        servers.fill_journal(directory, count, BODY.read_bytes())
        began = time.perf_counter()
        Log(directory, directory / QUARANTINE_NAME, print).close()
        self.note(f"open a journal of {count:,} events", time.perf_counter() - began, "s", at_most=0.5)
        with self.bridge(self._kafka, backlog=count) as server:
            alone = self._drained(server, lambda: time.sleep(self._seconds))
            self.note("backlog: drained without requests, absolute", alone, "/s")
            self.note("backlog: drained without requests", alone / floor_rate, "x floor's answers", at_least=1.3)
            self.note("backlog: memory at most", server.memory_mib(), "MiB", at_most=120)
            if load.missing():
                return
            seen: list[load.Loaded] = []
            both = self._drained(
                server,
                lambda: seen.append(load.steady(server.url, BODY, saturation / 2, seconds=self._seconds)),
            )
            assert server.daemon is not None
            assert not server.daemon.drained(), "the backlog was too small for the measure"
            self.note("backlog: drained at half of saturation", both / floor_rate, "x floor's answers", at_least=0.25)
            usual = self.figures["whole way: p99 at half of saturation"].median
            self.note("backlog: p99 at half of saturation", seen[0].p99 / usual, "x without", at_most=1.5)

    @staticmethod
    def _drained(server: Server, meanwhile: Callable[[], object]) -> float:
        """Return how many records a second reached Kafka meanwhile."""
        before, began = server.published(), time.perf_counter()
        meanwhile()
        return (server.published() - before) / (time.perf_counter() - began)

    def growth(self) -> None:
        """Measure how the cost of an event grows with the journal, the connections and the body."""
        document = json.loads(BODY.read_bytes())
        bodies = {}
        for kilobytes in (0.5, 8, 64):
            small = {key: document[key] for key in ("type", "asset_id", "status")}
            bodies[kilobytes] = self._scratch / f"{kilobytes}.json"
            bodies[kilobytes].write_text(json.dumps(small | {"filler": "x" * int(kilobytes * 1024 - 100)}))
        with self.bridge(None) as server:
            usual, _ = self.cost(server, 64)
            one, _ = self.cost(server, 1)
            many, _ = self.cost(server, 1000)
            sizes = {kilobytes: self.cost(server, 64, body)[0] for kilobytes, body in bodies.items()}
        with self.bridge(None, backlog=1_000_000) as server:
            deep, _ = self.cost(server, 64)
        self.note("growth: CPU with 1,000,000 journalled", deep / usual, "x with few", at_most=1.15)
        self.note("growth: CPU at 1,000 connections", many / usual, "x at 64", at_most=1.15)
        self.note("growth: CPU at 1 connection", one / usual, "x at 64", at_most=1.15)
        for kilobytes, cost in sizes.items():
            self.note(f"growth: CPU of a body of {kilobytes:g} kB", cost, "µs")
        for less, more in ((0.5, 8), (8, 64)):
            ratio = sizes[more] / more / (sizes[less] / less)
            self.note(f"growth: CPU a byte at {more:g} kB", ratio, f"x at {less:g} kB", at_most=1.15)

    def replicas(self) -> None:
        """Measure two processes on one port against one, with the load on the same cores."""
        rates = []
        for count in (1, 2):
            with ExitStack() as stack:
                shared: dict[str, Any] = {"reuse_port": "true"}
                for _ in range(count):
                    self._runs += 1
                    one = servers.bridge(self._scratch / f"run{self._runs}", None, "replicas.", **shared)
                    server = stack.enter_context(one)
                    assert server.daemon is not None
                    shared["listen"] = server.daemon.settings["listen"]
                rates.append(load.closed(server.url, BODY, self._scratch, seconds=self._seconds).rate)
        self.note("replicas: two on one port", rates[1] / rates[0], "x one", at_least=1.7)

    def start(self) -> None:
        """Measure from the start of the process to the first acknowledgement, and the idle process."""
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], env=environment(), check=True)
        imports = time.perf_counter() - began
        began = time.perf_counter()
        with self.bridge(None) as server:
            assert server.daemon is not None
            assert server.daemon.post(BODY.read_bytes(), token=load.TOKEN).status == 200
            self.note("start to first 200", (time.perf_counter() - began) / imports, "x the imports alone", at_most=1.5)
        with self.bridge(self._kafka) as server:
            time.sleep(1)
            before = server.cpu_seconds()
            time.sleep(3)
            self.note("idle: CPU", (server.cpu_seconds() - before) / 3 * 100, "%", at_most=1)


def _table(figures: list[Figure]) -> Table:
    table = Table("figure", "median", "spread", "unit", "target", title="bench")
    for figure in figures:
        spread = f"{min(figure.values):.4g} - {max(figure.values):.4g}"
        style = "red" if figure.verdict.startswith("NOT") else ""
        table.add_row(figure.name, f"{figure.median:.4g}", spread, figure.unit, figure.verdict, style=style)
    return table


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each comparison is made")
    parser.add_argument("--seconds", type=float, default=4, help="how long each load lasts")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="events of the backlog")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    if any(program.startswith("wrk") for program in load.missing()):
        sys.exit(f"bench needs {', '.join(load.missing())}")
    for program in load.missing():
        Console(stderr=True).print(f"NOT MEASURED without {program}: the tail at a steady rate")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache")))
        kafka = stack.enter_context(brokers.apache_kafka(scratch / "kafka"))
        bench = Bench(scratch, kafka.bootstrap_servers, options.seconds)
        rounds: list[Callable[[], None]] = [
            *(lambda connections=connections: bench.side_by_side(connections) for connections in (64, 256)),
            bench.start,
        ]
        once: list[Callable[[], None]] = [
            bench.growth,
            lambda: bench.backlog(options.backlog),
            bench.replicas,
        ]
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        steps = rounds * options.rounds + once
        for step in progress.track(steps, description="measuring"):
            step()
    Console(width=140).print(_table(list(bench.figures.values())))
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores shared with the load and Kafka"
    Console(width=140).print(f"{kafka.description}; {machine}; load average at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        figures = [each._asdict() | {"median": each.median, "verdict": each.verdict} for each in bench.figures.values()]
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
