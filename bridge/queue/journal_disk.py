"""The journal's file in operation: one thread writes it, a write that failed reopens it, damage replaces it.

After a failed write or sync neither the connection nor its cache says what is on disk, so both are given up and the
file is opened afresh before the next write. A damaged file is renamed, told, and a new one begun; nothing is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import structlog

from bridge.errors import JournalCorrupted
from bridge.queue.interface import Group, Parked
from bridge.queue.journal_file import JournalFile, is_damage
from bridge.queue.journal_mark import SUFFIX
from bridge.telemetry.metrics import Metrics

RETRY_SECONDS = 1.0
"""Pause between attempts of a write that must succeed."""

READ_BYTES = 256 * 1024
"""About how much is read at once: below a millisecond of the event loop's time."""
KEEP_FREE_BYTES = 32 * 1024 * 1024
"""Free pages that stay in the file for what comes next; a backlog's surplus goes back to the disk."""
GIVE_BACK_PAGES = 512
"""Pages given back between two commits: a few milliseconds, so that an append hardly waits for it."""

Work = Callable[[JournalFile], object]

_log = structlog.stdlib.get_logger()


class JournalStorage:
    """The current journal file. `fault` says why the last write failed, None when it did not."""

    def __init__(
        self, path: Path, metrics: Metrics, *, reopened: Callable[[], None], replaced: Callable[[], None]
    ) -> None:
        """`reopened` is told that a file was opened again, `replaced` that a damaged one was set aside."""
        self._path = path
        self._metrics = metrics
        self._reopened = reopened
        self._replaced = replaced
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._file: JournalFile | None = None
        self._free_bytes = 0
        self._free_known_until = 0.0
        self.fault: str | None = None

    def file(self) -> JournalFile:
        """Return the open file, opening it if need be; in place of a damaged one, a new one.

        Raises sqlite3.Error or OSError when the disk fails, UnsupportedJournalVersion when it is not ours to read.
        """
        if self._file is None:
            try:
                self._file = JournalFile(self._path)
            except JournalCorrupted as error:
                self.replace(error)
                self._file = JournalFile(self._path)
            if self._file.missing:
                self._tell_missing(self._file.missing)
            self._reopened()
        return self._file

    def _tell_missing(self, missing: int) -> None:
        """Tell of acknowledged deliveries that are gone, and keep the log that they may still be read from."""
        self._metrics.journal_missing.inc(missing)
        copy: Path | None = None
        with contextlib.suppress(OSError):
            copy = copy_aside(self._path)
        _log.error(
            "journal_deliveries_lost",
            missing=missing,
            copy=copy and str(copy),
            hint="the write-ahead log, or a part of it, was lost or damaged with acknowledged deliveries in it",
        )

    @property
    def free_bytes(self) -> int:
        """Bytes free on the disk, looked up at most once a second."""
        now = time.monotonic()
        if now >= self._free_known_until:
            self._free_known_until = now + 1
            disk = os.statvfs(self._path.parent)
            self._free_bytes = disk.f_bavail * disk.f_frsize
        return self._free_bytes

    def close(self) -> None:
        """Let the thread finish and close the file."""
        self._thread.shutdown()
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def replace(self, error: Exception) -> None:
        """Set the damaged file aside; the next use begins a new one."""
        self._close_file()
        aside = set_aside(self._path)
        self._metrics.journal_damaged.inc()
        _log.error("journal_corrupted", detail=str(error), quarantined_as=str(aside))
        self._replaced()

    async def read(self, after: int) -> list[Group] | None:
        """Return the next groups after a sequence number; None when they cannot be read now, or went with a file."""
        try:
            return self.file().read(after, READ_BYTES)
        except JournalCorrupted as error:
            self.replace(error)
        except (sqlite3.Error, OSError) as error:
            _log.error("journal_read_failed", detail=str(error))
            await asyncio.sleep(RETRY_SECONDS)
        return None

    async def parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the deliveries that have waited longest for a topic; none when they went with a damaged file.

        Tried without end while the disk fails: none would mean that the topic may flow again.
        """
        while True:
            try:
                return self.file().parked(topic, limit)
            except JournalCorrupted as error:
                self.replace(error)
                return []
            except (sqlite3.Error, OSError) as error:
                _log.error("journal_read_failed", detail=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def give_back(self) -> bool:
        """Return some of a backlog's space to the file system; True when there is more to return."""
        more: list[bool] = []
        await self.write(lambda file: more.append(file.give_back(KEEP_FREE_BYTES, GIVE_BACK_PAGES)))
        return any(more)

    async def write(self, work: Work) -> Exception | None:
        """Do `work` with the file in the writing thread; return what went wrong, None when it is done and on disk.

        Work that found the file damaged is done again on a new one.
        """
        error = await self._attempt(work)
        if error is not None and _says_damage(error):
            self.replace(error)
            error = await self._attempt(work)
        if error is None:
            if self.fault is not None:
                self.fault = None
                _log.info("journal_recovered")
            return None
        if self.fault is None:
            _log.error("journal_write_failed", detail=str(error))
        self.fault = str(error)
        self._close_file()
        return error

    async def _attempt(self, work: Work) -> Exception | None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work, self.file())
        except (sqlite3.Error, OSError, JournalCorrupted) as error:
            return error
        return None

    async def write_without_end(self, work: Work) -> None:
        """Do `work` again and again until it is done: for what must not be forgotten while the disk fails."""
        while await self.write(work) is not None:  # noqa: ASYNC110 - it waits for a disk, which signals nothing
            await asyncio.sleep(RETRY_SECONDS)


def _says_damage(error: Exception) -> bool:
    return isinstance(error, JournalCorrupted) or (isinstance(error, sqlite3.Error) and is_damage(error))


def copy_aside(path: Path) -> Path | None:
    """Copy a file and its write-ahead log, before the next commit overwrites what SQLite did not accept of it.

    Return the copy's name; None when there is no log to read anything from.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        return None
    aside = _damaged_name(path)
    aside_log = aside.with_name(f"{aside.name}-wal")
    try:
        shutil.copyfile(log, aside_log)
        shutil.copyfile(path, aside)
    except OSError:  # half a copy would only fill the disk
        aside.unlink(missing_ok=True)
        aside_log.unlink(missing_ok=True)
        raise
    return aside


def _damaged_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}")


def set_aside(path: Path) -> Path:
    """Rename a damaged file and its write-ahead log, deleting nothing; return the new name, which says when."""
    aside = _damaged_name(path)
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    for suffix in ("-shm", SUFFIX):  # what they say is of no use without the file
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
