"""The file operations of the log: every call that writes, orders or removes data goes through one `Files` object.

A test replaces it to record the calls, to fail them, or to build the states that a power cut can leave. What a call
promises:

* `pwrite` changes the file at once for readers, and on disk at the latest when a later `fsync` of the file returns.
* `fsync` returns when all earlier writes and the size of the file are on disk. After an error the file must not be
  written again: the kernel may have dropped the data and report success next time.
* `rename`, `unlink` and a created name are on disk when a later `fsync_directory` returns, possibly earlier.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

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

    def entries(self, directory: Path) -> dict[str, int]:
        """Return the names in a directory with their inode numbers; none when it does not exist."""
        try:
            with os.scandir(directory) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except FileNotFoundError:
            return {}

    def free_bytes(self, directory: Path) -> int:
        """Return the bytes that are free for this user on the disk."""
        disk = os.statvfs(directory)
        return disk.f_bavail * disk.f_frsize
