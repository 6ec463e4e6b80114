"""Logs on disks that fail on purpose."""

from __future__ import annotations

import errno
from pathlib import Path

from bridge.event import Delivery
from bridge.queue.files import Files
from bridge.queue.frame import State
from bridge.queue.interface import Group
from bridge.queue.log import Log
from bridge.queue.segment import Damage
from tests.support.journal import UnsyncedFiles

SEGMENT_BYTES = 64 * 1024
SETTLED_OFFSET = 32
"""Offset of the field `settled` in a frame's header."""


class Opened:
    """A log, and everything that it reported."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self.directory = directory / "log"
        self.quarantine = directory / "quarantine"
        self.damage: list[Damage] = []
        self.log = Log(
            self.directory,
            self.quarantine,
            self.damage.append,
            files=files or UnsyncedFiles(),
            segment_bytes=SEGMENT_BYTES,
            prefix="x-",
        )

    def append(self, count: int, size: int = 1000) -> list[Group]:
        """Append groups of two deliveries whose bodies begin with their sequence numbers."""
        groups = []
        for _ in range(count):
            first = self.log.last + 1
            deliveries = [Delivery(1_000_000 + n, "s", str(n).encode().ljust(size, b".")) for n in (first, first + 1)]
            groups.append(self.log.append(deliveries))
        return groups

    def settle(self, group: Group) -> None:
        """Record that everything up to a group is on Kafka."""
        self.log.settle(State(group.last, group.total, group.received_ms))
        self.log.checkpoint()

    def read(self) -> list[int]:
        """Return the numbers in the bodies of all pending deliveries, checked against their sequence numbers."""
        reader = self.log.reader(self.log.state.settled)
        numbers: list[int] = []
        while groups := reader.read(self.log.last, 10_000):
            for group in groups:
                found = [int(delivery.body.rstrip(b".")) for delivery in group.deliveries]
                assert found == list(range(group.first, group.last + 1))
                numbers += found
        return numbers

    def segments(self) -> list[Path]:
        """Return the segments in order."""
        return sorted(self.directory.glob("*.log"))

    @property
    def lost(self) -> int:
        """Number of deliveries reported as lost."""
        return sum(damage.lost for damage in self.damage)

    def copies(self) -> dict[str, bytes]:
        """Return the quarantined files."""
        return {path.name: path.read_bytes() for path in self.quarantine.glob("*")}


class FailingFiles(UnsyncedFiles):
    """Fails the named call once, before or after doing it."""

    def __init__(self) -> None:
        self.fail = ""
        self.calls: list[str] = []

    def _check(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail:
            self.fail = ""
            raise OSError(errno.EIO, "Input/output error")

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write, unless it fails."""
        self._check("pwrite")
        super().pwrite(descriptor, data, offset)

    def fsync(self, descriptor: int) -> None:
        """Sync, unless it fails."""
        self._check("fsync")
        super().fsync(descriptor)

    def fallocate(self, descriptor: int, size: int) -> None:
        """Reserve, unless it fails."""
        self._check("fallocate")
        super().fallocate(descriptor, size)

    def fsync_directory(self, path: Path) -> None:
        """Sync, unless it fails."""
        self._check("fsync_directory")
        super().fsync_directory(path)

    def create(self, path: Path) -> int:
        """Create, unless it fails."""
        self._check("create")
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, unless it fails."""
        self._check("rename")
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Link, unless it fails."""
        self._check("link")
        super().link(source, target)
