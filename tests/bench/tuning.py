"""`make bench-tuning`: what the settings of aiokafka and the publisher are worth, one changed at a time.

Each variant is compared with the defaults in the same round: acknowledging alone (no Kafka), and a backlog drained
to Apache Kafka. Prints a table in Markdown, the one of deploy/SIZING.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tests.support import brokers
from tests.support.daemon import wait_for

from . import load, servers
from .scenarios import BODY

BACKLOG = 96_000
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "as it is": ([], {}),
    "producer: batches of 128 KiB": (["bridge.publisher.kafka_producer.BATCH_BYTES=128 * 1024"], {}),
    "producer: batches of 960 KiB": (["bridge.publisher.kafka_producer.BATCH_BYTES=960 * 1024"], {}),
    "producer: gzip": ([], {"kafka_compression": "gzip"}),
    "publisher: windows of 250": (["bridge.publisher.publisher.WINDOW_EVENTS=250"], {}),
    "publisher: windows of 4,000": (["bridge.publisher.publisher.WINDOW_EVENTS=4000"], {}),
    "publisher: yields after 0.2 ms": (["bridge.publisher.publisher.MAX_BLOCK_SECONDS=0.0002"], {}),
    "publisher: yields after 5 ms": (["bridge.publisher.publisher.MAX_BLOCK_SECONDS=0.005"], {}),
    "interpreter: switch interval of 5 ms (0.5 ms)": (["bridge.cli.serve.GIL_SWITCH_INTERVAL_SECONDS=0.005"], {}),
    "interpreter: collect every 20,000 objects (700)": (["gc.set_threshold=20_000"], {}),
}
"""What is changed: constants and settings."""


class Measured:
    """The rounds of one variant."""

    def __init__(self) -> None:
        self.acknowledge_us: list[float] = []
        self.p99_ms: list[float] = []
        self.drain_us: list[float] = []
        self.memory_mib: list[float] = []


def _measure(into: Measured, scratch: Path, kafka: str, changes: list[str], settings: dict[str, Any]) -> None:
    number = len(list(scratch.iterdir()))
    wrapper = [sys.executable, str(Path(__file__).with_name("patched.py")), *changes, "--"]
    with servers.bridge(scratch / f"alone{number}", None, "tuning.", wrapper=wrapper, **settings) as server:
        load.closed(server.url, BODY, scratch, seconds=1)
        before = server.cpu_seconds()
        seen = load.closed(server.url, BODY, scratch, seconds=3)
        into.acknowledge_us.append((server.cpu_seconds() - before) / seen.requests * 1e6)
        into.p99_ms.append(seen.p99)
    directory = scratch / f"drain{number}"
    servers.fill_journal(directory / "journal", BACKLOG, BODY.read_bytes())
    with servers.bridge(directory, kafka, f"tuning{number}.", wrapper=wrapper, **settings) as server:
        wait_for(lambda: server.published() > 0, 60, "the first record")
        before, begun = server.cpu_seconds(), server.published()
        wait_for(lambda: server.published() >= BACKLOG, 120, "the drain")
        into.drain_us.append((server.cpu_seconds() - before) / (BACKLOG - begun) * 1e6)
        into.memory_mib.append(server.memory_mib())


def _row(name: str, measured: Measured, usual: Measured) -> str:
    def ratio(these: list[float], those: list[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(these, those, strict=True)):.2f}"

    return (
        f"| {name} | {ratio(measured.acknowledge_us, usual.acknowledge_us)} | {ratio(measured.p99_ms, usual.p99_ms)} "
        f"| {ratio(measured.drain_us, usual.drain_us)} | {statistics.median(measured.memory_mib):.0f} |"
    )


def main() -> None:
    """Measure all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="a part of the variants' names")
    options = parser.parse_args()
    chosen = {name: what for name, what in VARIANTS.items() if options.only in name or not what[0] + [*what[1]]}
    results = {name: Measured() for name in chosen}
    console = Console(width=140)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache")))
        (scratch / "runs").mkdir()
        kafka = stack.enter_context(brokers.apache_kafka(scratch / "kafka"))
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        steps = [(name, *what) for _ in range(options.rounds) for name, what in chosen.items()]
        for name, changes, settings in progress.track(steps, description="measuring"):
            _measure(results[name], scratch / "runs", kafka.bootstrap_servers, changes, settings)
    usual = results["as it is"]
    console.print(
        "| changed | CPU to acknowledge | p99 at saturation | CPU to drain | memory, MiB |\n|---|---|---|---|---|"
    )
    for name, measured in results.items():
        console.print(_row(name, measured, usual))
    console.print(
        f"\nAs it is: {statistics.median(usual.acknowledge_us):.0f} µs, {statistics.median(usual.p99_ms):.0f} ms, "
        f"{statistics.median(usual.drain_us):.0f} µs; {options.rounds} rounds, {time.strftime('%Y-%m-%d')}, "
        f"load average at the end {os.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    main()
