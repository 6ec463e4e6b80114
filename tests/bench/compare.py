"""`make bench-compare BASE=<git ref>`: cost and tail before and after, measured alternately in one run.

Two ways: the acknowledgement alone (no Kafka), and the whole way until every event is on Kafka. As fast as the daemon
responds; prints the medians of the rounds and the ratios of each round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.support import brokers
from tests.support.daemon import wait_for

from . import load, servers
from .scenarios import BODY

ROUNDS = 5
SECONDS = 3
WAYS = ("acknowledgement alone", "whole way")


def _measure(scratch: Path, kafka: str | None, prefix: str, tree: Path) -> tuple[float, load.Loaded]:
    """Return microseconds of CPU an event, and the latencies."""
    with servers.bridge(scratch / prefix, kafka, prefix, tree=tree) as server:
        daemon = server.daemon
        assert daemon is not None

        def settle() -> None:
            if kafka is not None:
                wait_for(daemon.drained, 60)

        load.closed(server.url, BODY, scratch, seconds=1)
        settle()
        before = server.cpu_seconds()
        seen = load.closed(server.url, BODY, scratch, seconds=SECONDS)
        settle()
        return (server.cpu_seconds() - before) / seen.requests * 1e6, seen


def main() -> None:
    """Check the base out next to this tree, measure both, print the ratios."""
    base = sys.argv[1]
    console = Console(width=140)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache")))
        tree = scratch / "base"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, base], check=True)
        stack.callback(lambda: subprocess.run(["git", "worktree", "remove", "--force", tree], check=False))
        kafka = stack.enter_context(brokers.apache_kafka(scratch / "kafka"))
        results: dict[tuple[str, str], list[tuple[float, load.Loaded]]] = defaultdict(list)
        for round_ in track(range(ROUNDS), description="measuring", console=Console(stderr=True)):
            for way, servers_of_way in zip(WAYS, (None, kafka.bootstrap_servers), strict=True):
                for name, source in (("base", tree), ("this", Path.cwd())):
                    prefix = f"{name}{round_}{way[:3]}."
                    results[way, name].append(_measure(scratch, servers_of_way, prefix, source))
    for way in WAYS:
        for name in ("base", "this"):
            costs, seen = zip(*results[way, name], strict=True)
            p99, rate = statistics.median(one.p99 for one in seen), statistics.median(one.rate for one in seen)
            console.print(
                f"{way}, {name}: {statistics.median(costs):.1f} µs of CPU an event, p99 {p99:.1f} ms, "
                f"{rate:.0f} responses/s"
            )
        pairs = list(zip(results[way, "base"], results[way, "this"], strict=True))
        cpu = [after / before for (before, _), (after, _) in pairs]
        tail = [after.p99 / before.p99 for (_, before), (_, after) in pairs]
        for what, ratios in (("CPU", cpu), ("p99", tail)):
            console.print(
                f"{way}: {statistics.median(ratios):.3f} of the {what} of {base} "
                f"(rounds {min(ratios):.3f} to {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
