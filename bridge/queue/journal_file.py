"""The journal on disk: one SQLite file, its format, its lock, and what happens when it is damaged.

Everything here blocks and belongs to one thread at a time; `journal` decides when and where it runs.

Format (`PRAGMA user_version` counts it, an older one is upgraded when it is opened, a newer one refused):

* `groups`: one row for each group commit. `last` is the sequence number of the group's last delivery, so the
  rows count deliveries without being read; `total` is the running sum of `size`, so the bytes waiting are the
  difference of two rows. `deliveries` is a MessagePack array of `event.Delivery`, `checksum` its CRC-32:
  SQLite itself does not notice a flipped bit in a value. `trimmed` tells up to where all is on Kafka: a trigger
  removes those rows within the same statement, because each further statement costs a hand-over of the GIL.
* `parked`: one row for each delivery whose topic refuses it, in the order in which they must follow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.errors import BridgeError, JournalCorrupted, JournalLocked, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue.interface import Group, Parked
from bridge.queue.journal_mark import Mark

FILE_NAME = "journal.sqlite"
LOCK_NAME = "journal.lock"

_UPGRADES = (
    """
    CREATE TABLE groups (
        last INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        size INTEGER NOT NULL,
        total INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        trimmed INTEGER NOT NULL,
        deliveries BLOB NOT NULL
    );
    CREATE TRIGGER trim AFTER INSERT ON groups
        BEGIN DELETE FROM groups WHERE last <= NEW.trimmed; END;
    CREATE TABLE parked (
        number INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        size INTEGER NOT NULL,
        delivery BLOB NOT NULL
    );
    CREATE INDEX parked_by_topic ON parked (topic, number, size);
    """,
)
"""Script n brings format n to format n + 1; a new file has format 0."""

FORMAT = len(_UPGRADES)

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_INSERT = "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_READ = "SELECT first, last, received_ms, size, total, checksum, deliveries FROM groups WHERE last > ? ORDER BY last"

_encode = msgspec.msgpack.Encoder().encode
_decode_group = msgspec.msgpack.Decoder(list[Delivery]).decode
_decode_one = msgspec.msgpack.Decoder(Delivery).decode


class Extent(NamedTuple):
    """What a file holds: sequence numbers after `settled` up to `last`, likewise running totals of bytes."""

    settled: int
    last: int
    settled_total: int
    total: int


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the journal's directory, making it if need be. Raises JournalLocked, or BridgeError if it cannot be used."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BridgeError(
            f"journal directory {directory}: {error.strerror}. Fix: make it writable for this user, or set "
            "BRIDGE_JOURNAL_DIR to a directory that is."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise JournalLocked(
                f"journal directory {directory} is in use by process {holder}. Fix: stop that process, or give this "
                "one a directory of its own (BRIDGE_JOURNAL_DIR)."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_damage(error: sqlite3.Error) -> bool:
    """Tell damage of the file from a disk that is full, failing or read-only for the moment."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def pack(deliveries: Sequence[Delivery]) -> bytes:
    """Encode the deliveries of one group."""
    return _encode(deliveries)


class JournalFile:
    """One open journal file: `writer` for one thread that writes, `reader` for the one that reads.

    `extent` is what it held when it was opened, `missing` how many deliveries it should have held beyond that.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises UnsupportedJournalVersion, JournalCorrupted, or sqlite3.Error for a failing disk."""
        self.path = path
        try:
            self._writer = self._connect()
            self._upgrade()
            self._reader = self._connect()
            self.extent = self._read_extent()
            self._mark = Mark(path)
            self.missing = self._mark.missing(self.extent.last)
            self._mark.begin(self.extent.last, self.extent.settled)
        except sqlite3.Error as error:
            self.close()
            if is_damage(error):
                raise JournalCorrupted(str(error)) from error
            raise
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # fsync at each commit: the promise of the 200
        connection.execute("PRAGMA secure_delete = OFF")  # some builds overwrite what is deleted: twice the writes
        connection.execute("PRAGMA journal_size_limit = 16777216")
        return connection

    def _upgrade(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise UnsupportedJournalVersion(
                f"{self.path} has format {version}, this version of the bridge knows up to {FORMAT}. Fix: start the "
                "newer version that wrote it, or give this one a directory of its own (BRIDGE_JOURNAL_DIR)."
            )
        for number in range(version, FORMAT):
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {_UPGRADES[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    def _read_extent(self) -> Extent:
        row = self._reader.execute("SELECT first, size, total FROM groups ORDER BY last LIMIT 1").fetchone()
        if row is None:
            return Extent(0, 0, 0, 0)
        last, total = self._reader.execute("SELECT last, total FROM groups ORDER BY last DESC LIMIT 1").fetchone()
        first, size, first_total = row
        return Extent(first - 1, last, first_total - size, total)

    def close(self) -> None:
        """Close both connections; the last one out leaves no write-ahead log behind."""
        for name in ("_reader", "_writer", "_mark"):
            if (opened := getattr(self, name, None)) is not None:
                opened.close()

    # What the writing thread calls.

    def append(self, group: Group, packed: bytes, trimmed: int) -> None:
        """Write a group, and remove the rows up to `trimmed`. When this returns, both are on disk."""
        self._mark.removing(trimmed)
        row = (group.last, group.first, group.received_ms, group.size, group.total, zlib.crc32(packed), trimmed, packed)
        self._writer.execute(_INSERT, row)
        self._mark.committed(group.last)

    def trim(self, upto: int) -> None:
        """Remove the groups up to the sequence number `upto`."""
        self._mark.removing(upto)
        self._writer.execute("DELETE FROM groups WHERE last <= ?", (upto,))

    def park(self, upto: int, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Move deliveries to their topics' waiting rows and remove the groups up to `upto`, in one transaction."""
        rows = [(topic, len(packed), packed) for topic, delivery in parked if (packed := _encode(delivery))]
        self._mark.removing(upto)
        with self._transaction():
            self._writer.executemany("INSERT INTO parked (topic, size, delivery) VALUES (?, ?, ?)", rows)
            self._writer.execute("DELETE FROM groups WHERE last <= ?", (upto,))

    def unpark(self, numbers: Sequence[int]) -> None:
        """Remove parked deliveries that are on Kafka now."""
        with self._transaction():
            self._writer.executemany("DELETE FROM parked WHERE number = ?", [(number,) for number in numbers])

    def give_back(self, keep_bytes: int, pages: int) -> bool:
        """Return up to `pages` free pages to the file system, keeping `keep_bytes` for what comes next.

        True: there is more to return.
        """
        (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
        (page_size,) = self._writer.execute("PRAGMA page_size").fetchone()
        surplus = free - keep_bytes // page_size
        if surplus <= 0:
            return False
        # The statement frees one page at each step and returns no rows; `execute` would step it but once.
        self._writer.executescript(f"PRAGMA incremental_vacuum({min(surplus, pages)})")
        return bool(surplus > pages)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            raise

    # What the reading thread calls.

    def read(self, after: int, max_bytes: int) -> list[Group]:
        """Return the groups after a sequence number, in order: at least one if there is any, about `max_bytes`.

        Raises JournalCorrupted when they cannot be read.
        """
        groups: list[Group] = []
        taken = 0
        try:
            rows = self._reader.execute(_READ, (after,))
            for first, last, received_ms, size, total, checksum, packed in rows:
                if zlib.crc32(packed) != checksum:
                    raise JournalCorrupted(f"deliveries {first} to {last} do not have their checksum")
                groups.append(Group(first, last, received_ms, size, total, _decode_group(packed)))
                taken += size
                if taken >= max_bytes:
                    break
            rows.close()
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            raise JournalCorrupted(str(error)) from error
        return groups

    def oldest_pending_ms(self, after: int) -> int | None:
        """Return the receipt of the oldest delivery after a sequence number, in ms since the epoch."""
        row = self._reader.execute(
            "SELECT received_ms FROM groups WHERE last > ? ORDER BY last LIMIT 1", (after,)
        ).fetchone()
        return row and int(row[0])

    def parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the deliveries that have waited longest for a topic. Raises JournalCorrupted when they are not whole."""
        try:
            rows = self._reader.execute(
                "SELECT number, delivery FROM parked WHERE topic = ? ORDER BY number LIMIT ?", (topic, limit)
            )
            return [Parked(number, _decode_one(packed)) for number, packed in rows.fetchall()]
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            raise JournalCorrupted(str(error)) from error

    def parked_topics(self) -> dict[str, tuple[int, int]]:
        """Return how many deliveries, and how many bytes of them, wait for each topic."""
        rows = self._reader.execute("SELECT topic, count(*), sum(size) FROM parked GROUP BY topic")
        return {topic: (count, size) for topic, count, size in rows.fetchall()}
