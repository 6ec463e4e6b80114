"""Files in memory, for enumerations that open tens of thousands of logs: no system call, nothing to remove.

Input: the content of files by their paths below `ROOT`. Output: a `Files` that a log can use, and through it the files
as the log leaves them. Contents are shared with the input until they are written. Descriptors work as the operating
system's do: an open file stays readable after it was renamed, replaced or removed.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from bridge.queue.files import Files

ROOT = Path("/in memory")
"""The directory that the files seem to be in; it does not exist on the disk."""


class _Content:
    """What one file holds; `links` counts its names."""

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.data = data
        self.links = 1

    def writable(self) -> bytearray:
        """Return the data as an object that may be changed."""
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        return self.data


class MemoryFiles(Files):
    """A file system in memory. Directories exist when a file is in them."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._files = {f"{ROOT}/{path}": _Content(data) for path, data in contents.items()}
        self._open: dict[int, _Content] = {}
        self._descriptors = itertools.count(3)

    def _find(self, path: Path) -> _Content:
        try:
            return self._files[str(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _descriptor(self, content: _Content) -> int:
        descriptor = next(self._descriptors)
        self._open[descriptor] = content
        return descriptor

    def _name(self, path: Path, content: _Content) -> None:
        if (replaced := self._files.get(str(path))) is not None:
            replaced.links -= 1
        self._files[str(path)] = content

    def create(self, path: Path) -> int:
        """Open an empty file for writing, replacing its content."""
        content = self._files.setdefault(str(path), _Content())
        content.data = bytearray()
        return self._descriptor(content)

    def open(self, path: Path) -> int:
        """Open a file for reading."""
        return self._descriptor(self._find(path))

    def close(self, descriptor: int) -> None:
        """Forget a descriptor."""
        del self._open[descriptor]

    def fallocate(self, descriptor: int, size: int) -> None:
        """Extend a file with zeros."""
        data = self._open[descriptor].writable()
        data.extend(bytes(max(0, size - len(data))))

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all bytes at an offset."""
        content = self._open[descriptor].writable()
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""

    def fsync_directory(self, path: Path) -> None:
        """Do nothing."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing the target."""
        content = self._find(source)
        self._name(target, content)
        del self._files[str(source)]

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which must not exist."""
        content = self._find(source)
        if str(target) in self._files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        content.links += 1
        self._files[str(target)] = content

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        self._find(path).links -= 1
        del self._files[str(path)]

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file."""
        del self._find(path).writable()[size:]

    def mkdir(self, path: Path) -> None:
        """Do nothing."""

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at an offset; fewer only at the end of the file."""
        return bytes(self._open[descriptor].data[offset : offset + size])

    def next_data(self, descriptor: int, offset: int) -> int | None:
        """Return the offset, except at the end of the file: nothing here is a hole."""
        return offset if offset < len(self._open[descriptor].data) else None

    def size(self, descriptor: int) -> int:
        """Return the size of an open file."""
        return len(self._open[descriptor].data)

    def is_removed(self, descriptor: int) -> bool:
        """Return whether an open file has no name any more."""
        return self._open[descriptor].links == 0

    def names(self, directory: Path) -> list[str]:
        """Return the sorted names in a directory."""
        start = f"{directory}/"
        return sorted(path.removeprefix(start) for path in self._files if path.startswith(start))

    def free_bytes(self, directory: Path) -> int:  # noqa: ARG002 - every directory is on the same disk
        """Return a size that no test fills."""
        return 2**40
