"""Durations, sizes and lists of names as people read them, the same in every text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAX_NAMES = 3
"""Most names that a text lists."""


def format_span(seconds: float) -> str:
    """Return a duration in its largest unit that has at least two."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def format_bytes(count: float) -> str:
    """Return a size in its largest unit that has at least one."""
    for power, unit in ((60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count:.0f} B"


def join_names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def free_space_fault(directory: Path, free: float, floor: float) -> str:
    """Return that the journal's disk has less free space than it must have."""
    least = f"{format_bytes(floor)} (BRIDGE_JOURNAL_MIN_FREE_BYTES)"
    return f"{format_bytes(free)} free on the disk of {directory}, less than {least}"
