"""The journal's directory: created for this user only, held by one process, free of a journal of version 0.1.0."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bridge.errors import BridgeError, JournalLocked, UnsupportedJournalVersion
from bridge.queue.files import FILE_MODE, Files

LOCK_NAME = "journal.lock"
"""The same name as in version 0.1.0, so that both versions exclude each other."""
LEGACY_NAME = "journal.sqlite"


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the journal's directory, creating it if needed.

    Raises JournalLocked, UnsupportedJournalVersion, or BridgeError when the directory cannot be used.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        Files().mkdir(directory)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
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
                f"journal directory {directory} is in use by process {holder}. Fix: stop that process, or use another "
                "directory (BRIDGE_JOURNAL_DIR)."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        refuse_legacy(directory)
        yield
    finally:
        os.close(descriptor)


def refuse_legacy(directory: Path) -> None:
    """Raise UnsupportedJournalVersion when a journal of version 0.1.0 still holds deliveries, or cannot be read."""
    path = directory / LEGACY_NAME
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT EXISTS (SELECT 1 FROM groups) OR EXISTS (SELECT 1 FROM parked)"
            (pending,) = connection.execute(query).fetchone()
    except sqlite3.Error:
        pending = 1
    if pending:
        raise UnsupportedJournalVersion(
            f"{path} is a journal of version 0.1.0 with deliveries that are not on Kafka. Fix: drain it with version "
            "0.1.0 (`bridge journal drain`), then remove the file; or use another directory (BRIDGE_JOURNAL_DIR)."
        )
