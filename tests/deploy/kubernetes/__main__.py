"""Rehearses the deployment on a real Kubernetes API: `make rehearse-kubernetes`.

Runs the steps on a control plane on loopback, prints each with its time, and compares the table of results with the one
in deploy/kubernetes/README.md (`--write`: replaces it). Exit code 0: every step passed and the table is up to date.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.deploy.external_tools import ToolUnavailableError
from tests.deploy.kubernetes.control_plane import ControlPlane, RehearsalError
from tests.deploy.kubernetes.document import Document
from tests.deploy.kubernetes.programs import VERSION, programs
from tests.deploy.kubernetes.rehearsal import README, Rehearsal
from tests.deploy.kubernetes.steps import STEPS


def main() -> int:
    """Run the rehearsal and return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        directory = Path(name)
        (directory / "bin").mkdir()
        try:
            programs(directory / "bin")
            report(f"programs of Kubernetes {VERSION}", started)
            table = rehearse(directory)
        except (ToolUnavailableError, RehearsalError) as error:
            print(f"FAILED: {error}", flush=True)
            return 1
    print(table)
    print(f"passed in {time.monotonic() - started:.0f} s")
    return compare(table)


def rehearse(directory: Path) -> str:
    """Start the control plane, run the steps, and return the table."""
    begun = time.monotonic()
    lines = ["", "| tested | result |", "|---|---|"]
    with ControlPlane(directory) as plane:
        report("control plane and 3 simulated nodes", begun)
        run = Rehearsal(plane)
        for name, step in STEPS:
            begun = time.monotonic()
            try:
                result = step(run)
            except (RehearsalError, AssertionError) as error:
                (directory.parent / "rehearsal.log").write_text(plane.logs())
                raise RehearsalError(f"{name}: {error}\nlogs: {directory.parent}/rehearsal.log") from error
            report(f"{name}: {result}", begun)
            lines.append(f"| {name} | {result} |")
    return "\n".join([*lines, "", ""])


def compare(table: str) -> int:
    """Compare the table with the document's, or write it there; return the exit code."""
    guide = Document(README)
    if "--write" in sys.argv:
        guide.write_table(table)
    elif guide.table != table:
        print(f"FAILED: the table in {guide.path} differs: make rehearse-kubernetes ARGS=--write")
        return 1
    return 0


def report(text: str, begun: float) -> None:
    """Print a line of progress with the time that it took."""
    print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as after an interrupt from the keyboard: the processes of the control plane are ended."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
