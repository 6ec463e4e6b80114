"""`make bench-compare BASE=<git ref>`: the end-to-end cost before and after, measured alternately in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
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


def _cost(scratch: Path, kafka: str, prefix: str, tree: Path) -> tuple[float, load.Loaded]:
    with servers.bridge(scratch / prefix, kafka, prefix, tree=tree) as server:
        assert server.daemon is not None
        load.closed(server.url, BODY, scratch, seconds=1)
        wait_for(server.daemon.drained, 60)
        before = server.cpu_seconds()
        seen = load.closed(server.url, BODY, scratch, seconds=SECONDS)
        wait_for(server.daemon.drained, 60)
        return (server.cpu_seconds() - before) / seen.requests * 1e6, seen


def main() -> None:
    """Check the base out next to this tree, measure both, print the ratio."""
    base = sys.argv[1]
    console = Console(width=140)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache")))
        tree = scratch / "base"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, base], check=True)
        stack.callback(lambda: subprocess.run(["git", "worktree", "remove", "--force", tree], check=False))
        kafka = stack.enter_context(brokers.apache_kafka(scratch / "kafka"))
        costs: dict[str, list[float]] = {"base": [], "this": []}
        rates: dict[str, list[float]] = {"base": [], "this": []}
        for round_ in track(range(ROUNDS), description="measuring", console=Console(stderr=True)):
            for name, source in (("base", tree), ("this", Path.cwd())):
                cost, seen = _cost(scratch, kafka.bootstrap_servers, f"{name}{round_}.", source)
                costs[name].append(cost)
                rates[name].append(seen.rate)
    ratios = [after / before for before, after in zip(costs["base"], costs["this"], strict=True)]
    for name, measured in costs.items():
        median = statistics.median(measured)
        console.print(f"{name}: {median:.1f} µs of CPU an event, {statistics.median(rates[name]):.0f} answers/s")
    console.print(
        f"this / {base}: {statistics.median(ratios):.3f} of the CPU (rounds {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
