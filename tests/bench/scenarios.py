"""What `make bench` measures. Servers that are compared take turns within a round, on one machine.

Input: a Kafka, and a directory on the disk to be measured. Output: `Figures`. Every load is bounded in time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bridge.contract.schemas import schemas_directory
from bridge.queue.journal import QUARANTINE_NAME
from bridge.queue.log import Log
from tests.support.daemon import environment, wait_for

from . import load, servers
from .figures import Figures
from .journal import bare_commit, measure_commits, percentile
from .quota import cpu_quota
from .servers import Server

BODY = schemas_directory() / "examples/video.status.ready/full.in.json"
RATES = (20, 200, 1000, 3000)
"""Events a second of the open loop: from a small customer to a large one."""
TAIL_RATES = RATES[1:]
SATURATION_CONNECTIONS = (64, 256)
QUOTA_CORES = 0.5
QUOTA_RATES = (200, 1000)
IDLE_CONNECTIONS = 1000
MIN_EVENTS = 150
"""Events that one load sends at least."""
CPU_TARGETS = {200: 2.5, 1000: 2.5, 3000: 1.8}
SATURATION_TARGETS = {64: 1.8, 256: 1.5}
T = TypeVar("T")
IMPORTS = "import aiohttp, aiokafka, pydantic_settings"


class Scenarios:
    """Runs the servers under load and collects figures."""

    def __init__(self, scratch: Path, kafka: str, seconds: float) -> None:
        self._scratch = scratch
        self._kafka = kafka
        self._seconds = seconds
        self._runs = 0
        self.figures = Figures()

    @contextmanager
    def _bridge(self, kafka: str | None, backlog: int = 0) -> Iterator[Server]:
        """Run the daemon on a new journal that holds `backlog` deliveries, on topics of its own."""
        self._runs += 1
        directory = self._scratch / f"run{self._runs}"
        if backlog:
            servers.fill_journal(directory / "journal", backlog, BODY.read_bytes())
        with servers.bridge(directory, kafka, f"bench{self._runs}.") as server:
            yield server

    # Every round.

    def open_loop(self) -> None:
        """Measure a bare handler, the whole way and the bridge without Kafka at the rates at which webhooks arrive."""
        if "oha" in " ".join(load.missing()):
            return
        with servers.floor() as floor, self._bridge(self._kafka) as whole, self._bridge(None) as alone:
            for rate in RATES:
                floor_us, floor_seen = self._steady(floor, rate)
                before = whole.publish_latency()
                whole_us, seen = self._steady(whole, rate)
                published = whole.publish_latency().since(before).quantile(0.99) * 1000
                at = f"at {rate}/s"
                self.figures.add(f"floor: CPU an event {at}", floor_us, "µs")
                self.figures.add(f"whole way: CPU an event {at}", whole_us, "µs")
                self.figures.add(f"whole way: CPU {at}", whole_us / floor_us, "x floor", at_most=CPU_TARGETS.get(rate))
                self.figures.add(f"floor: p50 {at}", floor_seen.p50, "ms")
                self.figures.add(f"floor: p99 {at}", floor_seen.p99, "ms")
                self.figures.add(f"acknowledgement: p50 {at}", seen.p50, "ms")
                self.figures.add(
                    f"acknowledgement: p99 {at}", seen.p99, "ms", at_most=10 if rate in TAIL_RATES else None
                )
                self.figures.add(f"acknowledgement: maximum {at}", seen.maximum, "ms")
                self.figures.add(f"receipt to Kafka: p99 {at}", published, "ms", at_most=60 if rate == 200 else None)
                if rate in TAIL_RATES:
                    self._tail(rate, seen.p99, self._steady(alone, rate)[1].p99)

    def _tail(self, rate: int, p99: float, without_kafka: float) -> None:
        """Compare the tail of the acknowledgement with that of one sync, and with that while Kafka is gone."""
        directory = self._scratch / f"bare{self._runs}-{rate}-{time.monotonic_ns()}"
        directory.mkdir()
        sync = percentile(measure_commits(bare_commit, directory, 1, min(rate, 300), self._seconds), 0.99)
        self.figures.add(f"one sync: p99 in the run at {rate}/s", sync, "ms")
        self.figures.add(f"acknowledgement: p99 at {rate}/s above one sync's", p99 - sync, "ms", at_most=5)
        self.figures.add(f"Kafka gone: p99 at {rate}/s", without_kafka / p99, "x with Kafka", at_most=1.5)

    def _steady(self, server: Server, rate: float, *, settle: bool = True) -> tuple[float, load.Loaded]:
        """Return microseconds of CPU an event, until the last is on Kafka where there is one, and the latencies."""
        load.steady(server.url, BODY, rate, seconds=1)
        self._settle(server, settle=settle)
        before = server.cpu_seconds()
        seen = load.steady(server.url, BODY, rate, seconds=max(self._seconds, MIN_EVENTS / rate))
        self._settle(server, settle=settle)
        assert seen.errors == 0, f"{seen.errors} requests were not acknowledged"
        return (server.cpu_seconds() - before) / seen.requests * 1e6, seen

    @staticmethod
    def _settle(server: Server, *, settle: bool = True) -> None:
        if settle and server.daemon is not None and server.daemon.status()["kafka"]["connected"]:
            wait_for(server.daemon.drained, 120, "the drain")

    def saturation(self, connections: int) -> None:
        """Measure a bare handler, the acknowledgement alone (no Kafka) and the whole way as fast as they respond."""
        with servers.floor() as server:
            floor, floor_seen = self._closed(server, connections)
        with self._bridge(None) as server:
            alone, alone_seen = self._closed(server, connections)
        with self._bridge(self._kafka) as server:
            whole, whole_seen = self._closed(server, connections)
            memory = server.memory_mib()
        at = f"at saturation, {connections} connections"
        self.figures.add(f"floor: CPU an event {at}", floor, "µs")
        self.figures.add(f"floor: responses {at}", floor_seen.rate, "/s")
        self.figures.add(f"acknowledgement alone: CPU {at}", alone / floor, "x floor")
        self.figures.add(f"whole way: CPU an event {at}", whole, "µs")
        self.figures.add(f"whole way: CPU {at}", whole / floor, "x floor", at_most=SATURATION_TARGETS[connections])
        self.figures.add(f"whole way: responses {at}", whole_seen.rate, "/s")
        self.figures.add(f"acknowledgement: p99 {at}", whole_seen.p99, "ms")
        self.figures.add(f"Kafka gone: p99 {at}", alone_seen.p99 / whole_seen.p99, "x with Kafka", at_most=1.5)
        self.figures.add("whole way: memory at most", memory, "MiB", at_most=120)

    def _closed(self, server: Server, connections: int, body: Path = BODY) -> tuple[float, load.Loaded]:
        """Return microseconds of CPU an event, until the last is on Kafka where there is one, and the latencies."""
        load.closed(server.url, body, self._scratch, connections=connections, seconds=1)
        self._settle(server)
        before = server.cpu_seconds()
        seen = load.closed(server.url, body, self._scratch, connections=connections, seconds=self._seconds)
        self._settle(server)
        assert seen.errors == 0, f"{seen.errors} requests were not acknowledged"
        return (server.cpu_seconds() - before) / seen.requests * 1e6, seen

    def start(self) -> None:
        """Measure from the start of the process to the first acknowledgement, and the idle process."""
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], env=environment(), check=True)
        imports = time.perf_counter() - began
        began = time.perf_counter()
        with self._bridge(None) as server:
            assert server.daemon is not None
            assert server.daemon.post(BODY.read_bytes(), token=load.TOKEN).status == 200
            taken = time.perf_counter() - began
        self.figures.add("start to first 200", taken / imports, "x the imports alone", at_most=1.5)
        with self._bridge(self._kafka) as server, ExitStack() as stack:
            self.figures.add("idle: CPU", self._idle_percent(server), "%", at_most=1)
            memory = server.memory_mib("VmRSS")
            address = server.url.removeprefix("http://")
            for _ in range(IDLE_CONNECTIONS):
                connection = http.client.HTTPConnection(address, timeout=10)
                stack.callback(connection.close)
                connection.connect()
            idle = self._idle_percent(server)
            self.figures.add(f"idle: CPU with {IDLE_CONNECTIONS} connections", idle, "%", at_most=1)
            each = (server.memory_mib("VmRSS") - memory) * 1024 / IDLE_CONNECTIONS
            self.figures.add("idle: memory a connection", each, "KiB")

    @staticmethod
    def _idle_percent(server: Server) -> float:
        time.sleep(1)
        before = server.cpu_seconds()
        time.sleep(3)
        return (server.cpu_seconds() - before) / 3 * 100

    # Once.

    def backlog(self, count: int) -> None:
        """Measure a backlog: opening it, draining it without and with requests, memory."""
        floor_rate = self.figures["floor: responses at saturation, 64 connections"].median
        directory = self._scratch / "opened"
        servers.fill_journal(directory, count, BODY.read_bytes())
        began = time.perf_counter()
        Log(directory, directory / QUARANTINE_NAME, print).close()
        self.figures.add(f"open a journal of {count:,} events", time.perf_counter() - began, "s", at_most=0.5)
        with self._bridge(self._kafka, backlog=count) as server:
            assert server.daemon is not None
            drained, _ = self._drained(server, partial(time.sleep, self._seconds))
            self.figures.add("backlog: drained without requests, absolute", drained, "/s")
            self.figures.add("backlog: drained without requests", drained / floor_rate, "x floor", at_least=1.3)
            if not load.missing():
                for rate in TAIL_RATES:
                    both, (_, seen) = self._drained(server, partial(self._steady, server, rate, settle=False))
                    assert not server.daemon.drained(), "the backlog was too small for the measurement"
                    self.figures.add(f"backlog: drained at {rate}/s", both / floor_rate, "x floor")
                    usual = self.figures[f"acknowledgement: p99 at {rate}/s"].median
                    self.figures.add(f"backlog: p99 at {rate}/s", seen.p99 / usual, "x without", at_most=1.5)
            self.figures.add("backlog: memory at most", server.memory_mib(), "MiB", at_most=120)

    @staticmethod
    def _drained(server: Server, action: Callable[[], T]) -> tuple[float, T]:
        """Return how many records a second reached Kafka during an action, and its result."""
        before, began = server.published(), time.perf_counter()
        result = action()
        return (server.published() - before) / (time.perf_counter() - began), result

    def growth(self) -> None:
        """Measure how the cost of an event grows with the journal and with the body."""
        document = json.loads(BODY.read_bytes())
        bodies = {}
        for kilobytes in (0.5, 8, 64):
            small = {key: document[key] for key in ("type", "asset_id", "status")}
            bodies[kilobytes] = self._scratch / f"{kilobytes}.json"
            bodies[kilobytes].write_text(json.dumps(small | {"filler": "x" * int(kilobytes * 1024 - 100)}))
        with self._bridge(None) as few, self._bridge(None, backlog=1_000_000) as many:
            ratios = [self._closed(many, 64)[0] / self._closed(few, 64)[0] for _ in range(3)]
            sizes = {kilobytes: self._closed(few, 64, body)[0] for kilobytes, body in bodies.items()}
        self.figures.add("growth: CPU with 1,000,000 journalled", statistics.median(ratios), "x with few", at_most=1.15)
        for kilobytes, cost in sizes.items():
            self.figures.add(f"growth: CPU of a body of {kilobytes:g} kB", cost, "µs")

    def quota(self) -> None:
        """Measure the whole way under a quota of half a core."""
        with self._bridge(self._kafka) as server, contextlib.ExitStack() as stack:
            assert server.daemon is not None
            try:
                stack.enter_context(cpu_quota(server.pid, QUOTA_CORES))
            except OSError as error:
                print(f"NOT MEASURED: a quota of CPU time ({error})", file=sys.stderr)
                return
            name = f"with {QUOTA_CORES:g} core"
            for rate in () if load.missing() else QUOTA_RATES:
                cost, seen = self._steady(server, rate)
                self.figures.add(f"whole way: CPU an event at {rate}/s, {name}", cost, "µs")
                self.figures.add(f"acknowledgement: p50 at {rate}/s, {name}", seen.p50, "ms")
                self.figures.add(f"acknowledgement: p99 at {rate}/s, {name}", seen.p99, "ms")
            _, seen = self._closed(server, 64)
            self.figures.add(f"whole way: responses at saturation, {name}", seen.rate, "/s")

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
                load.closed(server.url, BODY, self._scratch, seconds=1)
                rates.append(load.closed(server.url, BODY, self._scratch, seconds=self._seconds).rate)
        self.figures.add("replicas: two on one port", rates[1] / rates[0], "x one")
