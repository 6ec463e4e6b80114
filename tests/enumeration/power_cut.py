"""What a power cut can leave of files: records a log's file operations and builds the states of the disk they allow.

`RecordingFiles` performs each operation in memory and records it. `Disk` replays a prefix of the record and knows
what is synced and what is not. `Disk.states` enumerates what the disk may hold after a power cut at that point: of the
writes since a file's last sync any subset of their 512-byte sectors, of the changes of size any, of the changes of a
directory since its last sync any subset, in their order. All combinations where they are few, seeded samples where they
are many.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.enumeration.memory_files import ROOT, MemoryFiles

SECTOR_BYTES = 512
MAX_COMBINATIONS = 256
"""States of one point in time that are enumerated; more are sampled."""


class Operation(NamedTuple):
    """A recorded call. `inode` numbers files by their creation; `path` and `target` are relative to the directory."""

    kind: str
    inode: int = 0
    path: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""


class RecordingFiles(MemoryFiles):
    """Files in memory, with a record, and with failures on demand.

    `fail` holds the indices of recorded calls (counted over all kinds) that raise OSError instead of taking effect.
    """

    def __init__(self, contents: Mapping[str, bytes], fail: frozenset[str] = frozenset()) -> None:
        super().__init__(contents)
        self.operations: list[Operation] = []
        self.fail = fail
        self._calls: dict[str, int] = {}
        self._inodes: dict[int, int] = {}
        self._created = 1_000_000

    def _check(self, kind: str) -> None:
        self._calls[kind] = self._calls.get(kind, 0) + 1
        if f"{kind} {self._calls[kind]}" in self.fail:
            raise OSError(5, f"{kind} {self._calls[kind]} fails")

    @staticmethod
    def _relative(path: Path) -> str:
        return str(path.relative_to(ROOT))

    def create(self, path: Path) -> int:
        """Record a new file."""
        self._check("create")
        descriptor = super().create(path)
        self._created += 1
        self._inodes[descriptor] = self._created
        self.operations.append(Operation("create", self._created, self._relative(path)))
        return descriptor

    def close(self, descriptor: int) -> None:
        """Forget the descriptor."""
        self._inodes.pop(descriptor, None)
        super().close(descriptor)

    def fallocate(self, descriptor: int, size: int) -> None:
        """Record a new size."""
        self._check("fallocate")
        super().fallocate(descriptor, size)
        self.operations.append(Operation("resize", self._inodes[descriptor], offset=size))

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Record a write."""
        self._check("pwrite")
        super().pwrite(descriptor, data, offset)
        self.operations.append(Operation("write", self._inodes[descriptor], offset=offset, data=bytes(data)))

    def fsync(self, descriptor: int) -> None:
        """Record a sync; for a file that is only read, nothing is pending."""
        if descriptor in self._inodes:
            self._check("fsync")
            self.operations.append(Operation("fsync", self._inodes[descriptor]))

    def fsync_directory(self, path: Path) -> None:
        """Record a sync of names."""
        self._check("fsync_directory")
        if path != ROOT.parent:
            self.operations.append(Operation("fsync_directory", path=self._relative(path)))

    def rename(self, source: Path, target: Path) -> None:
        """Record a changed name."""
        self._check("rename")
        super().rename(source, target)
        self.operations.append(Operation("rename", path=self._relative(source), target=self._relative(target)))

    def unlink(self, path: Path) -> None:
        """Record a removed name."""
        self._check("unlink")
        super().unlink(path)
        self.operations.append(Operation("unlink", path=self._relative(path)))

    def truncate(self, path: Path, size: int) -> None:
        """Record a smaller size."""
        self._check("truncate")
        super().truncate(path, size)
        self.operations.append(Operation("truncate", path=self._relative(path), offset=size))

    def mkdir(self, path: Path) -> None:
        """Record a new directory."""
        super().mkdir(path)
        self.operations.append(Operation("mkdir", path=self._relative(path)))


@dataclass
class _File:
    """A file: what is synced, and the operations since."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.content, operation)
        self.pending.clear()

    def units(self) -> list[Operation]:
        """Return the pending operations as independent units: each sector of a write, each change of size."""
        units: list[Operation] = []
        for operation in self.pending:
            if operation.kind == "write":
                end = operation.offset + len(operation.data)
                for sector in range(operation.offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1):
                    begin = max(operation.offset, sector * SECTOR_BYTES)
                    stop = min(end, (sector + 1) * SECTOR_BYTES)
                    data = operation.data[begin - operation.offset : stop - operation.offset]
                    units.append(operation._replace(offset=begin, data=data))
            else:
                units.append(operation)
        return units


def _apply(content: bytearray, operation: Operation) -> None:
    size = operation.offset + len(operation.data)
    if operation.kind == "truncate":
        del content[operation.offset :]
    elif size > len(content):
        content.extend(bytes(size - len(content)))
    if operation.kind == "write":
        content[operation.offset : size] = operation.data


State = dict[str, bytes]
"""Files by their paths relative to the root."""


class Disk:
    """A disk after a sequence of operations."""

    def __init__(self, initial: State) -> None:
        """Start from files that are synced."""
        self._files = {number: _File(bytearray(content)) for number, content in enumerate(initial.values())}
        self._names = {path: number for number, path in enumerate(initial)}
        self._pending: list[Operation] = []
        self._visible = dict(self._names)

    def apply(self, operation: Operation) -> None:
        """Perform one more operation."""
        if operation.kind == "create":
            self._files[operation.inode] = _File()
            self._change_names(operation)
        elif operation.kind in ("write", "resize"):
            self._files[operation.inode].pending.append(operation)
        elif operation.kind == "truncate":
            self._files[self._visible[operation.path]].pending.append(operation)
        elif operation.kind == "fsync":
            self._files[operation.inode].sync()
        elif operation.kind == "fsync_directory":
            self._sync_names(operation.path)
        elif operation.kind in ("rename", "unlink"):
            self._change_names(operation)

    def _change_names(self, operation: Operation) -> None:
        if operation.kind == "rename":
            operation = operation._replace(inode=self._visible[operation.path])
        _rename(self._visible, operation)
        self._pending.append(operation)

    def _sync_names(self, directory: str) -> None:
        rest = []
        for operation in self._pending:
            parents = {str(Path(path).parent) for path in (operation.path, operation.target) if path}
            if directory in parents:
                _rename(self._names, operation)
            else:
                rest.append(operation)
        self._pending = rest

    def states(self, random_: random.Random) -> Iterator[State]:
        """Yield the states that a power cut can leave now."""
        units: list[tuple[int | None, Operation]] = [(None, operation) for operation in self._pending]
        units += [(number, unit) for number, file in self._files.items() for unit in file.units()]
        count = len(units)
        if 2**count <= MAX_COMBINATIONS:
            chosen: Iterator[tuple[bool, ...]] = itertools.product((False, True), repeat=count)
        else:
            prefixes = [tuple(index < kept for index in range(count)) for kept in range(count + 1)]
            single = [tuple(index == kept for index in range(count)) for kept in range(count)]
            missing = [tuple(index != kept for index in range(count)) for kept in range(count)]
            samples = [
                tuple(random_.random() < share for _ in range(count))
                for share in (0.2, 0.5, 0.8)
                for _ in range(MAX_COMBINATIONS // 6)
            ]
            chosen = iter(dict.fromkeys(prefixes + single + missing + samples))
        for choice in chosen:
            present = dict(self._names)
            contents = {number: bytearray(file.content) for number, file in self._files.items()}
            for taken, (owner, operation) in zip(choice, units, strict=True):
                if taken and owner is None:
                    _rename(present, operation)
                elif taken and owner is not None:
                    _apply(contents[owner], operation)
            yield {path: bytes(contents[number]) for path, number in present.items()}


def _rename(names: dict[str, int], operation: Operation) -> None:
    """Apply a change of names; one whose file is not there (its creation was lost) leaves the target's name only."""
    if operation.kind == "create":
        names[operation.path] = operation.inode
    elif operation.kind == "unlink":
        names.pop(operation.path, None)
    else:
        names.pop(operation.path, None)
        names[operation.target] = operation.inode
