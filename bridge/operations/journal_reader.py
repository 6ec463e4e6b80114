"""Reads and checks the journal of a directory without changing it, next to a running daemon or without one.

Input: the journal's directory. Output: the pending deliveries, first those in order, then the parked ones by topic, and
a `Problem` for each damaged place.
Invariants: nothing is written. Reading ends at the delivery that was the last when it began. Deliveries that the daemon
settles meanwhile may be missing from the output; they are not a problem.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from bridge.errors import BridgeError
from bridge.event import Delivery
from bridge.queue.files import Files, refuse_legacy
from bridge.queue.interface import Group
from bridge.queue.journal import QUARANTINE_NAME
from bridge.queue.log_reader import LogReader
from bridge.queue.parked import DIRECTORY_NAME
from bridge.queue.segment import Damage, Recovery, Segment, recover, segment_path, segment_paths

TAIL_ATTEMPTS = 10
"""Attempts to read the end of a log: while the daemon writes a frame, it looks interrupted."""
TAIL_SECONDS = 0.05


class JournalEntry(NamedTuple):
    """A pending delivery. `number` is its sequence number, for a parked one `topic/sequence number`."""

    number: str
    parked: str | None
    delivery: Delivery


class Problem(NamedTuple):
    """A damaged place: its segment and byte range, the lost deliveries, and the quarantined copy if there is one."""

    segment: str
    offset: int
    bytes: int
    lost: int
    first_lost: int | None
    copy: str | None
    detail: str

    def __str__(self) -> str:
        """Return one line for people."""
        lost = f", {self.lost} deliveries lost from number {self.first_lost} on" if self.lost else ""
        copy = f", copy in {self.copy}" if self.copy else ""
        return f"{self.segment}, {self.bytes} bytes at offset {self.offset}: {self.detail}{lost}{copy}"


class JournalReader:
    """The journal of one directory, opened for reading by `open_reader`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[Problem] = []
        """Damage in what has been read so far."""
        self.segments = self.segment_bytes = 0
        """Number and size of the segments that have been read."""
        self._files = Files()

    def count(self) -> int:
        """Return the number of pending deliveries, without reading all of them."""
        states = [self._recover(directory) for directory, _ in self._logs()]
        return sum(state.last - state.state.settled for state in states)

    def quarantined(self) -> list[Path]:
        """Return the quarantined files."""
        return sorted((self.directory / QUARANTINE_NAME).glob("*"))

    def entries(self) -> Iterator[JournalEntry]:
        """Yield every pending delivery."""
        for directory, topic in self._logs():
            for group in self._groups(directory):
                for number, delivery in enumerate(group.deliveries, group.first):
                    yield JournalEntry(str(number) if topic is None else f"{topic}/{number}", topic, delivery)

    def _logs(self) -> Iterator[tuple[Path, str | None]]:
        yield self.directory, None
        parked = self.directory / DIRECTORY_NAME
        for name in self._files.names(parked):
            yield parked / name, unquote(name)

    def _recover(self, directory: Path) -> Recovery:
        for _ in range(TAIL_ATTEMPTS):
            found = recover(self._files, directory)
            if not found.damage:
                break
            time.sleep(TAIL_SECONDS)
        return found

    def _groups(self, directory: Path) -> Iterator[Group]:
        """Yield the pending groups of one log, and note its damage."""
        found = self._recover(directory)
        paths = [segment_path(directory, first) for first in found.segments]
        self.segments += len(paths)
        with contextlib.suppress(FileNotFoundError):
            self.segment_bytes += sum(path.stat().st_size for path in paths)
        damages: list[Damage] = []
        reader = LogReader(directory, found.segments, damages.append, after=found.state.settled, files=self._files)
        while reader.position < found.last:
            yield from reader.read(found.last)
        # A segment that the daemon has deleted meanwhile looks lost: everything in it is settled.
        settled = recover(self._files, directory).state.settled if damages else 0
        damages = [each for each in damages if each.first_lost + each.lost - 1 > settled or each.length]
        seen = {(each.path, each.offset) for each in damages}
        rest = [each for each in (*found.not_segments, *found.damage) if (each.path, each.offset) not in seen]
        self.problems += [self._problem(directory, each) for each in (*damages, *rest)]

    def _problem(self, directory: Path, damage: Damage) -> Problem:
        return Problem(
            str(damage.path),
            damage.offset,
            damage.length,
            damage.lost,
            damage.first_lost if damage.lost else None,
            self._copy(directory, damage),
            damage.detail,
        )

    def _copy(self, directory: Path, damage: Damage) -> str | None:
        """Return the quarantined copy of damaged bytes, if the daemon has made one."""
        prefix = "" if directory == self.directory else f"{directory.name}-"
        with contextlib.suppress(OSError), contextlib.closing(Segment(self._files, damage.path)) as segment:
            name = f"{prefix}{segment.range_name(damage.offset, damage.length)}"
            if (copy := self.directory / QUARANTINE_NAME / name).exists():
                return str(copy)
        return None

    def summary(self, pending: int, parked: int) -> dict[str, Any]:
        """Return what has been checked."""
        return {
            "segments": self.segments,
            "segment_bytes": self.segment_bytes,
            "pending": pending,
            "parked": parked,
            "problems": len(self.problems),
            "quarantined_files": len(self.quarantined()),
        }


def has_journal(directory: Path) -> bool:
    """Return whether a directory has a journal: a daemon creates it with the first delivery.

    Raises UnsupportedJournalVersion for one of another version.
    """
    refuse_legacy(directory)
    return bool(segment_paths(Files(), directory)) or (directory / DIRECTORY_NAME).is_dir()


def check_journal(directory: Path) -> None:
    """Raise BridgeError when a directory has no journal, or one of another version."""
    if not has_journal(directory):
        raise BridgeError(
            f"there is no journal in {directory}. Fix: --dir, or BRIDGE_JOURNAL_DIR: the directory of a daemon."
        )


@contextlib.contextmanager
def open_reader(directory: Path) -> Iterator[JournalReader]:
    """Open the journal of a directory for reading.

    Raises BridgeError when the directory has no journal or cannot be read, UnsupportedJournalVersion for a newer one.
    """
    try:
        check_journal(directory)
        yield JournalReader(directory)
    except OSError as error:
        raise BridgeError(
            f"journal in {directory}: {error.strerror}. Fix: read it as the daemon's user, or read a copy."
        ) from error
