"""A limit of CPU time for one process, by the control groups of Linux (version 1 or 2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
NAME = "gumlet-bridge-bench"


@contextlib.contextmanager
def cpu_quota(pid: int, cores: float) -> Iterator[None]:
    """Limit a running process to `cores` within the block; raises OSError where that is not permitted."""
    quota = int(cores * PERIOD_MICROSECONDS)
    if (ROOT / "cgroup.controllers").exists():
        group, files = ROOT / NAME, {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}"}
    else:
        group, files = (
            ROOT / "cpu" / NAME,
            {"cpu.cfs_period_us": str(PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)},
        )
    group.mkdir(exist_ok=True)
    try:
        for name, value in files.items():
            (group / name).write_text(value)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()
