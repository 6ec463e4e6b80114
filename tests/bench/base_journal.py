"""Measures the SQLite journal of an earlier commit: run by `tests.bench.journal` on that commit's modules.

Arguments: the tree of the commit, a directory, then `commit SIZE RATE SECONDS` or `backlog COUNT`. Prints numbers.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

tree, directory, task, *numbers = sys.argv[1:]
sys.path[0] = tree  # in place of this script's own directory
file_module = importlib.import_module("bridge.journal_file")
delivery = importlib.import_module("bridge.event").Delivery(1_764_000_000_000, "default", sys.stdin.buffer.read())
path = Path(directory) / "journal.sqlite"


def commit(file: object, last: int, count: int, total: int, trimmed: int) -> int:
    """Commit a group; return the new running total."""
    deliveries = [delivery] * count
    packed = file_module.pack(deliveries)
    group = file_module.Group(last + 1, last + count, 1, len(packed), total + len(packed), deliveries)
    file.append(group, packed, trimmed)  # type: ignore[attr-defined]
    return int(group.total)


def measure_commits(size: int, rate: float, seconds: float) -> None:
    """Print the milliseconds of each commit at a steady rate; settled rows leave as in a daemon that keeps up."""
    file = file_module.JournalFile(path)
    last = total = 0
    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, start + number / rate - time.perf_counter()))
        began = time.perf_counter()
        total = commit(file, last, size, total, max(0, last - 30 * size))
        last += size
        sys.stdout.write(f"{(time.perf_counter() - began) * 1000}\n")
    file.close()


def measure_backlog(count: int) -> None:
    """Print the bytes on disk for each delivery, the seconds to open, and the deliveries read in a second."""
    file = file_module.JournalFile(path)
    file._writer.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - the earlier class has no public method for it
    last = total = 0
    while last < count:
        total = commit(file, last, 100, total, 0)
        last += 100
    file.close()
    began = time.perf_counter()
    file = file_module.JournalFile(path)
    opened = time.perf_counter() - began
    began, after = time.perf_counter(), 0
    while groups := file.read(after, 256 * 1024):
        after = groups[-1].last
    sys.stdout.write(f"{path.stat().st_size / count}\n{opened}\n{count / (time.perf_counter() - began)}\n")
    file.close()


if task == "commit":
    measure_commits(int(numbers[0]), float(numbers[1]), float(numbers[2]))
else:
    measure_backlog(int(numbers[0]))
