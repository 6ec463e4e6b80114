"""`make bench`: the cost and the latency of the bridge compared with a bare aiohttp handler, in one run on one machine.

Open loop at the rates at which webhooks arrive, then saturation, an outage, a backlog, idle connections and a CPU
quota. Compare ratios within a run: an absolute figure says more about the machine. Prints a table with each figure's
target, met or not, and writes the same as JSON, from which `make generate-sizing` makes deploy/SIZING.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.support import brokers

from . import load
from .scenarios import SATURATION_CONNECTIONS, Scenarios


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
        Console(stderr=True).print(f"NOT MEASURED without {program}: everything at a steady rate")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache")))
        kafka = stack.enter_context(brokers.apache_kafka(scratch / "kafka"))
        scenarios = Scenarios(scratch, kafka.bootstrap_servers, options.seconds)
        rounds: list[Callable[[], None]] = [
            scenarios.open_loop,
            *(partial(scenarios.saturation, connections) for connections in SATURATION_CONNECTIONS),
            scenarios.start,
        ]
        once: list[Callable[[], None]] = [
            scenarios.quota,
            scenarios.growth,
            partial(scenarios.backlog, options.backlog),
            scenarios.replicas,
        ]
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        for step in progress.track(rounds * options.rounds + once, description="measuring"):
            step()
    console = Console(width=140)
    console.print(scenarios.figures.table())
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores shared with the load and Kafka"
    console.print(f"{kafka.description}; {machine}; load average at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(scenarios.figures.as_json(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
