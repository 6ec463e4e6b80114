"""What a journal on disk holds, read and checked beside a running daemon, which never notices.

Rule 1: nothing is written. Each page of rows is read in a transaction of its own, over before the rows are looked
        at, so that the daemon's checkpoints never wait for a reader.
Rule 2: reading ends at the delivery that was the last when it began. What leaves meanwhile may be missing; what is
        parked meanwhile may be given twice.
Rule 3: a row is given only if it is whole. Every row that is not, and every gap in the sequence or in the running
        totals, is a line in `faults`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge.errors import BridgeError, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue.journal_file import FILE_NAME, FORMAT, is_damage

PAGE_BYTES = 1024 * 1024
"""About how much is read in one transaction: a few milliseconds."""
PARKED_ROWS = 500

_GROUPS = """
    SELECT last, first, received_ms, size, total, checksum, deliveries FROM groups
    WHERE last > ? AND last <= ? ORDER BY last
"""
_OLDER = "SELECT EXISTS (SELECT 1 FROM groups WHERE last <= ?)"
_PARKED = "SELECT number, topic, size, delivery FROM parked WHERE number > ? ORDER BY number LIMIT ?"

_decode_group = msgspec.msgpack.Decoder(list[Delivery]).decode
_decode_one = msgspec.msgpack.Decoder(Delivery).decode


class Held(NamedTuple):
    """A delivery in the journal: its sequence number, or `parked-` and its number there, and the topic it waits for."""

    place: str
    parked: str | None
    delivery: Delivery


class JournalView:
    """One journal file, open for reading; made by `viewing`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.faults: list[str] = []
        """What is wrong with what has been read so far."""
        self._connection = connection

    def count(self) -> int:
        """Return how many deliveries there are, without reading them."""
        counts = self._rows("SELECT coalesce(max(last) - min(first) + 1, 0) FROM groups") or [(0,)]
        counts += self._rows("SELECT count(*) FROM parked") or [(0,)]
        return sum(count for (count,) in counts)

    def held(self) -> Iterator[Held]:
        """Yield every delivery: those that flow, in the order of acknowledgement, then the parked ones."""
        yield from self._flowing()
        yield from self._parked()

    def _flowing(self) -> Iterator[Held]:
        ((end,),) = self._rows("SELECT max(last) FROM groups") or [(None,)]
        after, total = 0, None
        while end and (page := self._page(after, end)):
            for row in page:
                total = self._check_place(row, after, total)
                after = row[0]
                yield from self._group(row)

    def _page(self, after: int, end: int) -> list[tuple[Any, ...]] | None:
        """Return the next rows, each with whether an older one is still there; None where the file is damaged."""

        def read() -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            size = 0
            (older,) = self._connection.execute(_OLDER, (after,)).fetchone()
            cursor = self._connection.execute(_GROUPS, (after, end))
            for row in cursor:
                rows.append((*row, older))
                older = True
                size += len(row[-1])
                if size >= PAGE_BYTES:
                    break
            cursor.close()
            return rows

        return self._read(read)

    def _check_place(self, row: tuple[Any, ...], after: int, total: int | None) -> int:
        """Compare a row with the one before it; return the running total that the next one must go on from."""
        last, first, _, size, its_total, _, _, older = row
        if older and first != after + 1:
            self.faults.append(f"deliveries {first} to {last} follow {after}: between them something is missing")
        # Without an older row the daemon has removed what was read before: there is nothing to compare with.
        elif older and total is not None and its_total != total + size:
            self.faults.append(f"deliveries {first} to {last} have the total {its_total}, and {total + size} is right")
        return int(its_total)

    def _group(self, row: tuple[Any, ...]) -> Iterator[Held]:
        last, first, received_ms, size, _, checksum, packed, _ = row
        named = f"deliveries {first} to {last}"
        if zlib.crc32(packed) != checksum:
            self.faults.append(f"{named} do not have their checksum")
            return
        try:
            deliveries = _decode_group(packed)
        except msgspec.MsgspecError as error:
            self.faults.append(f"{named} cannot be read: {error}")
            return
        if len(deliveries) != last - first + 1 or len(packed) != size or deliveries[0].received_ms != received_ms:
            self.faults.append(f"{named} are {len(deliveries)} in {len(packed)} bytes, not what their row says")
        for number, delivery in enumerate(deliveries, first):
            yield Held(str(number), None, delivery)

    def _parked(self) -> Iterator[Held]:
        after = 0
        while page := self._rows(_PARKED, after, PARKED_ROWS):
            for number, topic, size, packed in page:
                after = number
                try:
                    delivery = _decode_one(packed)
                except msgspec.MsgspecError as error:
                    self.faults.append(f"parked delivery {number} for {topic} cannot be read: {error}")
                    continue
                if len(packed) != size:
                    self.faults.append(f"parked delivery {number} for {topic} has {len(packed)} bytes, not {size}")
                yield Held(f"parked-{number}", topic, delivery)

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]] | None:
        return self._read(lambda: self._connection.execute(query, values).fetchall())

    def _read(self, work: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]] | None:
        """Do `work` in one short transaction; None when the file is damaged there, which is a fault."""
        try:
            self._connection.execute("BEGIN")
            try:
                return work()
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.faults.append(f"SQLite cannot read on: {error}")
            return None


def journal_path(directory: Path) -> Path:
    """Return the path of a directory's journal. Raises BridgeError when there is none."""
    path = directory / FILE_NAME
    if not path.is_file():
        raise BridgeError(
            f"there is no {FILE_NAME} in {directory}. Fix: --dir, or BRIDGE_JOURNAL_DIR: the directory of a daemon."
        )
    return path


@contextlib.contextmanager
def viewing(directory: Path) -> Iterator[JournalView]:
    """Open the journal of a directory for reading. Raises BridgeError when there is none, or it cannot be read."""
    path = journal_path(directory)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        with contextlib.closing(connection):
            _check_format(path, connection)
            yield JournalView(path, connection)
    except sqlite3.Error as error:
        if is_damage(error):
            raise BridgeError(
                f"{path}: {error}. Fix: start the daemon, which sets the file aside and goes on with a new one, then "
                "`gumlet-bridge journal salvage` gets out what is whole."
            ) from error
        raise BridgeError(
            f"{path}: {error}. Fix: read it as the daemon's user, who may write to the directory, or read a copy."
        ) from error


def _check_format(path: Path, connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise UnsupportedJournalVersion(f"{path} has format {version}. Fix: the version of the bridge that wrote it.")
    if version < FORMAT:
        raise BridgeError(f"{path} has format {version}. Fix: start the daemon, which brings it to {FORMAT}.")
