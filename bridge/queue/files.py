"""The journal's access to the operating system: file operations, and the lock of its directory.

Every call of a log that writes, orders or removes data goes through one `Files` object. A test replaces it to record
the calls, to fail them, or to build the states that a power cut can leave. What a call promises:

* `pwrite` changes the file at once for readers, and on disk at the latest when a later `fsync` of the file returns.
* `fsync` returns when all earlier writes and the size of the file are on disk. After an error the file must not be
  written again: the kernel may have dropped the data and report success next time.
* `rename`, `unlink` and a created name are on disk when a later `fsync_directory` returns, possibly earlier.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bridge.errors import BridgeError, JournalLocked, UnsupportedJournalVersion

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
LOCK_NAME = "journal.lock"
"""The same name as in version 0.1.0, so that both versions exclude each other."""
LEGACY_NAME = "journal.sqlite"

_sync_data = getattr(os, "fdatasync", os.fsync)


class Files:
    """The operating system's files. Every method raises OSError."""

    def create(self, path: Path) -> int:
        """Open an empty file for writing, replacing its content."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)

    def open(self, path: Path) -> int:
        """Open a file for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not block

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def fallocate(self, descriptor: int, size: int) -> None:
        """Reserve the disk space of a file; it reads as zeros."""
        os.posix_fallocate(descriptor, 0, size)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all bytes at an offset."""
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file's data and size are on disk."""
        _sync_data(descriptor)

    def fsync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on disk."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # a parent directory may be closed to this user
            os.sync()
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system does not support it
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing the target."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which must not exist."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file; its segment is complete and has only zeros there."""
        os.truncate(path, size)

    def mkdir(self, path: Path) -> None:
        """Create a directory for this user only, unless it exists, and make its name durable."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(DIRECTORY_MODE)
            self.fsync_directory(path.parent)

    # Calls that change nothing.

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at an offset; fewer only at the end of the file."""
        data = os.pread(descriptor, size, offset)
        while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def next_data(self, descriptor: int, offset: int) -> int | None:
        """Return the next offset that may not be a hole, which reads as zeros; None when only holes follow."""
        try:
            return os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            return None if error.errno == errno.ENXIO else offset

    def size(self, descriptor: int) -> int:
        """Return the size of an open file."""
        return os.fstat(descriptor).st_size

    def is_removed(self, descriptor: int) -> bool:
        """Return whether an open file has no name any more."""
        return os.fstat(descriptor).st_nlink == 0

    def names(self, directory: Path) -> list[str]:
        """Return the sorted names in a directory; none when it does not exist."""
        try:
            return sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []

    def free_bytes(self, directory: Path) -> int:
        """Return the bytes that are free for this user on the disk."""
        disk = os.statvfs(directory)
        return disk.f_bavail * disk.f_frsize


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
