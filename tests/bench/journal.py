"""`make bench-journal`: the journal's commits next to a bare append and the SQLite journal of an earlier commit.

Each round runs the variants in turn on the same disk, one thread each, at a steady rate. Prints tables in Markdown:
p50, p99 and maximum of a commit by group size with the ratios of p99 (medians of the rounds), then for a backlog the
bytes on disk for each delivery, the time to open it, and how fast it is read.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from bridge.event import Delivery
from bridge.queue.log import Log
from tests.support.journal import fill_journal, segments

BODY = os.urandom(700).hex().encode()
"""About 1.4 kB, as a delivery of Gumlet's."""
GROUPS = {"1.5 kB": 1, "15 kB": 10, "60 kB": 42}
"""Deliveries in a commit, by its size."""
SHARES = (0.5, 0.99, 1)
Commit = Callable[[list[Delivery]], object]


@contextlib.contextmanager
def log_commit(directory: Path) -> Iterator[Commit]:
    """Yield the commit of this log."""
    log = Log(directory / "log", directory / "quarantine", print)

    def commit(deliveries: list[Delivery]) -> None:
        log.settle(log.state._replace(settled=max(0, log.last - 30 * len(deliveries))))
        log.append(deliveries)

    yield commit
    log.close()


@contextlib.contextmanager
def bare_commit(directory: Path) -> Iterator[Commit]:
    """Yield one write and one sync of the bodies, at the end of a file."""
    with (directory / "bare").open("ab", buffering=0) as file:

        def commit(deliveries: list[Delivery]) -> None:
            file.write(b"".join(delivery.body for delivery in deliveries))
            os.fdatasync(file.fileno())

        yield commit


def measure_commits(
    variant: Callable[[Path], AbstractContextManager[Commit]], directory: Path, size: int, rate: float, seconds: float
) -> list[float]:
    """Return the milliseconds of each commit."""
    group = [Delivery(1_764_000_000_000, "default", BODY)] * size
    taken: list[float] = []
    with variant(directory) as commit:
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            began = time.perf_counter()
            commit(group)
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def measure_backlog(directory: Path, count: int) -> list[float]:
    """Return bytes on disk for each delivery, seconds to open, deliveries read in a second."""
    group = [Delivery(1_764_000_000_000, "default", BODY)] * 100
    fill_journal(directory, (group for _ in range(count // 100)))
    size = sum(path.stat().st_size for path in segments(directory)[:-1])
    began = time.perf_counter()
    log = Log(directory, directory / "quarantine", print)
    opened = time.perf_counter() - began
    first_of_last = int(segments(directory)[-1].stem)
    began = time.perf_counter()
    reader = log.reader(0)
    while reader.read(log.last):
        pass
    rate = count / (time.perf_counter() - began)
    log.close()
    return [size / max(1, first_of_last - 1), opened, rate]


class Base:
    """The journal of an earlier commit, run in processes of its own."""

    def __init__(self, reference: str, tree: Path) -> None:
        self._tree = tree
        archive = subprocess.run(["git", "archive", reference, "bridge"], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(tree, filter="data")

    def measure(self, directory: Path, *arguments: object) -> list[float]:
        """Return what tests/bench/base_journal.py prints."""
        script = Path(__file__).with_name("base_journal.py")
        done = subprocess.run(
            [sys.executable, script, self._tree, directory, *map(str, arguments)],
            input=BODY,
            capture_output=True,
            check=True,
        )
        return [float(line) for line in done.stdout.split()]


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="Git reference of a commit with the SQLite journal")
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    out = Console(width=200, highlight=False)
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch_name:
        scratch = Path(scratch_name)
        (scratch / "base").mkdir()
        base = Base(options.base, scratch / "base")
        out.print(
            f"{options.rate:g} commits/s, {options.seconds:g} s, {options.rounds} rounds; ms: p50 / p99 / maximum\n"
        )
        out.print(
            "| group | this log | bare append | SQLite | p99 to bare | p99 to SQLite |\n|---|---|---|---|---|---|"
        )
        for name, size in GROUPS.items():
            rounds: list[tuple[list[float], list[float], list[float]]] = []
            for number in range(options.rounds):
                where = scratch / f"{size}-{number}"
                where.mkdir()
                rounds.append(
                    (
                        measure_commits(log_commit, where, size, options.rate, options.seconds),
                        measure_commits(bare_commit, where, size, options.rate, options.seconds),
                        base.measure(where, "commit", size, options.rate, options.seconds),
                    )
                )
            cells = [
                " / ".join(
                    f"{statistics.median(percentile(one[i], at) for one in rounds):.2f}" for at in (0.5, 0.99, 1)
                )
                for i in range(3)
            ]
            ratios = [
                f"{statistics.median(percentile(one[0], 0.99) / percentile(one[i], 0.99) for one in rounds):.2f}"
                for i in (1, 2)
            ]
            out.print(f"| {name} | {' | '.join([*cells, *ratios])} |")
        if options.backlog:
            (scratch / "sqlite").mkdir()
            figures = measure_backlog(scratch / "backlog", options.backlog)
            theirs = base.measure(scratch / "sqlite", "backlog", options.backlog)
            out.print(f"\n{options.backlog:,} pending deliveries of {len(BODY)} bytes\n")
            out.print("| journal | bytes on disk for each | open, s | read, 1/s |\n|---|---|---|---|")
            for name, (size_each, opened, rate) in (("this log", figures), ("SQLite", theirs)):
                out.print(f"| {name} | {size_each:.0f} | {opened:.3f} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
