"""Journals on disks that fail on purpose."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

from bridge.config.sections import JournalSettings
from bridge.event import Delivery
from bridge.queue.interface import Group
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.journal import UnsyncedFiles


def settings(directory: Path, **changes: int) -> JournalSettings:
    """Return settings whose bounds are out of the way but for what a test sets."""
    return JournalSettings(dir=directory, **{"min_free_bytes": 0, **changes})


def delivery(number: int, size: int = 20) -> Delivery:
    """Return a distinguishable delivery."""
    return Delivery(1_700_000_000_000 + number, "default", str(number).encode().ljust(size, b"."))


def numbers(groups: list[Group]) -> list[int]:
    """Return the numbers of the deliveries in groups."""
    return [int(each.body.rstrip(b".")) for group in groups for each in group.deliveries]


async def read(opened: Journal, count: int) -> list[Group]:
    """Read until `count` deliveries have come."""
    groups: list[Group] = []
    while len(numbers(groups)) < count:
        async with asyncio.timeout(10):
            groups += await opened.read()
    return groups


async def fill(directory: Path, count: int, **changes: int) -> None:
    """Leave `count` deliveries in a journal, each in a row of its own."""
    async with Journal.open(settings(directory, **changes), Metrics()) as opened:
        for number in range(count):
            await opened.append(delivery(number))


class FaultyFiles(UnsyncedFiles):
    """Calls `fault` before each allocation, write, sync or read; it may raise."""

    def __init__(self) -> None:
        self.fault: Callable[[str], None] = lambda _: None

    def fallocate(self, descriptor: int, size: int) -> None:
        """Allocate, unless the fault raises."""
        self.fault("allocate")
        super().fallocate(descriptor, size)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write, unless the fault raises."""
        self.fault("write")
        super().pwrite(descriptor, data, offset)

    def fsync(self, descriptor: int) -> None:
        """Sync, unless the fault raises."""
        self.fault("sync")
        super().fsync(descriptor)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Read, unless the fault raises."""
        self.fault("read")
        return super().pread(descriptor, size, offset)


def failing(*kinds: str, times: int = 1 << 60, number: int = errno.EIO) -> Callable[[str], None]:
    """Return a fault of a disk that fails so many times."""

    def fault(kind: str) -> None:
        nonlocal times
        if kind in kinds and times > 0:
            times -= 1
            raise OSError(number, "the disk fails")

    return fault


def value(metrics: Metrics, name: str) -> float | None:
    """Return the value of a sample."""
    return metrics.registry.get_sample_value(f"bridge_journal_{name}")


def broken(_: str) -> None:
    """Fail as a bug would: not with OSError."""
    raise ZeroDivisionError
