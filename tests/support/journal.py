"""Journals for tests and measurements: written fast, and damaged on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bridge.event import Delivery
from bridge.queue.files import Files
from bridge.queue.journal import QUARANTINE_NAME
from bridge.queue.log import SEGMENT_BYTES, Log
from bridge.queue.parked import ParkedLogs


class UnsyncedFiles(Files):
    """Files without waiting for the disk, where durability is not observed."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""

    def fsync_directory(self, path: Path) -> None:
        """Do nothing."""


def fill_journal(directory: Path, groups: Iterable[Sequence[Delivery]], segment_bytes: int = SEGMENT_BYTES) -> int:
    """Append groups to a journal as a daemon would leave it; return the bytes that they take."""
    directory.mkdir(parents=True, exist_ok=True)
    log = Log(
        directory, directory / QUARANTINE_NAME, lambda _: None, files=UnsyncedFiles(), segment_bytes=segment_bytes
    )
    for group in groups:
        log.append(group)
    log.checkpoint()
    log.close()
    return log.total


def park(directory: Path, topic: str, deliveries: Sequence[Delivery]) -> None:
    """Park deliveries in a journal that no daemon uses."""
    parked = ParkedLogs(directory, directory / QUARANTINE_NAME, lambda _: None, UnsyncedFiles(), SEGMENT_BYTES)
    parked.append(topic, deliveries)
    parked.checkpoint()
    parked.close()


def segments(directory: Path) -> list[Path]:
    """Return the segments of a log, in order."""
    return sorted(directory.glob("*.log"))


def flip(path: Path, offset: int, bit: int = 1) -> None:
    """Flip a bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ bit]))
