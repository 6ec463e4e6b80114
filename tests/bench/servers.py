"""The servers under load, each a process of its own, and what the operating system accounts to it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bridge.event import Delivery
from tests.support import journal
from tests.support.daemon import Daemon, environment, request, wait_for

from .load import TOKEN

_GROUP = 64
PUBLISH_LATENCY = re.compile(r'^bridge_publish_latency_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


class Buckets(NamedTuple):
    """A Prometheus histogram: upper bounds, and how many values are at or below each."""

    bounds: list[float]
    counts: list[float]

    def since(self, earlier: Buckets) -> Buckets:
        """Return what was added since."""
        return Buckets(self.bounds, [now - then for now, then in zip(self.counts, earlier.counts, strict=True)])

    def quantile(self, share: float) -> float:
        """Return a quantile, interpolated within its bucket as Prometheus does it."""
        wanted, lower, below = share * self.counts[-1], 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= wanted > below:
                return lower + (min(bound, 1e9) - lower) * (wanted - below) / (count - below)
            lower, below = bound, count
        return lower


class Server(NamedTuple):
    """A running server."""

    url: str
    pid: int
    daemon: Daemon | None = None

    def cpu_seconds(self) -> float:
        """CPU time of the process so far, all its threads: the scheduler's own account, in nanoseconds, not ticks."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def memory_mib(self, kind: str = "VmHWM") -> float:
        """Resident memory: the most so far (VmHWM) or now (VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) / 1024
        return 0.0

    def published(self) -> float:
        """Return how many records Kafka has confirmed to this process."""
        assert self.daemon is not None
        return self.daemon.metric("bridge_publish_latency_seconds_count")

    def publish_latency(self) -> Buckets:
        """Return the histogram of the time from receipt to Kafka's confirmation."""
        assert self.daemon is not None
        text = request(self.daemon.admin, "GET", "/metrics").body
        bounds, counts = zip(*((float(le), float(count)) for le, count in PUBLISH_LATENCY.findall(text)), strict=True)
        return Buckets(list(bounds), list(counts))


@contextmanager
def floor() -> Iterator[Server]:
    """Run the bare handler."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.floor", str(port)], env=environment())
    try:
        wait_for(lambda: _answers(port), what="the floor's start")
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def bridge(
    directory: Path,
    kafka: str | None,
    prefix: str,
    *,
    tree: Path | None = None,
    wrapper: Sequence[str] = (),
    **settings: object,
) -> Iterator[Server]:
    """Run the daemon, of another checkout if `tree` names one; without Kafka it only acknowledges."""
    directory.mkdir(parents=True, exist_ok=True)
    daemon = Daemon(directory, kafka or "127.0.0.1:1", prefix, tokens=TOKEN, **settings)
    daemon.source_tree = tree
    daemon.wrapper = wrapper
    with daemon:
        assert daemon.process is not None
        if kafka is not None:
            wait_for(lambda: daemon.logged("kafka_connected"), what="the connection to Kafka")
        yield Server(daemon.public, daemon.process.pid, daemon)


def fill_journal(directory: Path, count: int, body: bytes) -> None:
    """Leave a backlog of `count` deliveries of different assets, written as the journal writes them."""
    now = time.time_ns() // 1_000_000

    def groups() -> Iterator[list[Delivery]]:
        for first in range(0, count, _GROUP):
            ids = (b"%024x" % number for number in range(first, first + _GROUP))
            yield [Delivery(now, "default", body.replace(b"5fd088e0a47da8246f1fb756", each)) for each in ids]

    journal.fill_journal(directory, groups())
