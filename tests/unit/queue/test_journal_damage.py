"""The journal when its files are damaged or cannot be read."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from bridge.queue import journal
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.journal import UnsyncedFiles, flip, segments
from tests.unit.queue.journals import FaultyFiles, delivery, failing, fill, numbers, read, settings, value


async def test_damage_costs_its_own_group_and_is_counted(tmp_path: Path) -> None:
    """The other deliveries are read, the loss and the quarantined bytes are counted, the depth is right."""
    await fill(tmp_path, 5)
    (segment,) = segments(tmp_path)
    flip(segment, segment.read_bytes().index(b"2...."))
    metrics = Metrics()
    async with Journal.open(settings(tmp_path), metrics) as opened:
        groups = await read(opened, 4)
        assert numbers(groups) == [0, 1, 3, 4]
        assert (value(metrics, "lost_deliveries_total"), value(metrics, "corruptions_total")) == (1, 1)
        copies = list((tmp_path / "quarantine").iterdir())
        assert value(metrics, "quarantined_bytes_total") == sum(copy.stat().st_size for copy in copies)
        opened.settle(groups[-1])
        assert (opened.depth, opened.size_bytes) == (0, 0)


async def test_damage_to_the_last_delivery_leaves_nothing_pending(tmp_path: Path) -> None:
    """When everything that was left is lost, the journal is empty, and takes deliveries."""
    await fill(tmp_path, 1)
    (segment,) = segments(tmp_path)
    flip(segment, segment.read_bytes().index(b"0...."))
    metrics = Metrics()
    async with Journal.open(settings(tmp_path), metrics) as opened:
        assert opened.depth == 1
        reading = asyncio.create_task(opened.read())
        async with asyncio.timeout(10):
            while opened.depth:  # noqa: ASYNC110 - the reader signals nothing
                await asyncio.sleep(0.01)
        assert value(metrics, "lost_deliveries_total") == 1
        await opened.append(delivery(7))
        assert numbers(await reading) == [7]


async def test_a_disk_that_cannot_be_read_now_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is tried again: for the pending deliveries and for the parked ones."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.01)
    await fill(tmp_path, 3)
    files, metrics = FaultyFiles(), Metrics()
    async with Journal.open(settings(tmp_path), metrics, files=files) as opened:
        files.fault = failing("read", times=3)
        groups = await read(opened, 3)
        assert numbers(groups) == [0, 1, 2]
        await opened.settle_and_park(groups[-1], [("t", delivery(1))])
        files.fault = failing("read", times=3)
        assert [each.delivery for each in await opened.read_parked("t", 10)] == [delivery(1)]
        assert value(metrics, "lost_deliveries_total") == 0


@pytest.mark.parametrize("parked", [False, True])
async def test_a_read_that_fails_in_the_middle_loses_no_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, parked: bool
) -> None:
    """Groups that were read before the error are returned, not skipped by the next attempt, whichever read fails."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.01)
    count = 10
    async with Journal.open(settings(tmp_path), Metrics(), files=UnsyncedFiles()) as opened:
        for number in range(count):
            await opened.append(delivery(number, size=100_000))
        for group in await read(opened, count) if parked else []:
            await opened.settle_and_park(group, [("t", each) for each in group.deliveries])
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        reads = 0

        def fail_every_third(kind: str) -> None:
            nonlocal reads
            reads += kind == "read"
            if kind == "read" and not reads % 3:
                raise OSError(errno.EIO, "the disk fails")

        files.fault = fail_every_third
        if parked:
            found = [each.delivery for each in await opened.read_parked("t", count)]
        else:
            found = [each for group in await read(opened, count) for each in group.deliveries]
        assert found == [delivery(number, size=100_000) for number in range(count)]
        assert reads > 3


async def test_blocks_that_stay_unreadable_count_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector does not stop the publisher for good: after some attempts the rest is published."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.01)
    await fill(tmp_path, 3)
    files, metrics = FaultyFiles(), Metrics()
    async with Journal.open(settings(tmp_path), metrics, files=files) as opened:
        files.fault = failing("read")
        reading = asyncio.create_task(opened.read())
        async with asyncio.timeout(10):
            while opened.depth:  # noqa: ASYNC110 - the reader signals nothing
                await asyncio.sleep(0.01)
        assert value(metrics, "lost_deliveries_total") == 3
        files.fault = lambda _: None
        await opened.append(delivery(7))
        assert numbers(await reading) == [7]
