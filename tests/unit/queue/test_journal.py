"""The journal: group commit, order, capacity, parking, and recovery from disk faults and damage."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.config.sections import JournalSettings, QueueSettings
from bridge.errors import BridgeError, DeliveryRejected, JournalLocked, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue import group_commit, journal
from bridge.queue.files import Files
from bridge.queue.frame import HEADER_BYTES, encode_deliveries
from bridge.queue.interface import Group
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.journal import UnsyncedFiles, flip, segments


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


async def test_appended_deliveries_are_read_in_order(tmp_path: Path) -> None:
    """Deliveries come out once, in the order in which they were appended, with the time and source they had."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(100)))
        groups = await read(opened, 100)
        assert numbers(groups) == list(range(100))
        assert groups[0].deliveries[7] == delivery(7)
        assert opened.depth == 100


async def test_a_burst_is_one_commit(tmp_path: Path) -> None:
    """Deliveries that arrive in one turn of the loop are one frame: one sync acknowledges all of them."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(50)))
        assert [len(group.deliveries) for group in await read(opened, 50)] == [50]


async def test_unsettled_deliveries_are_read_again_after_a_restart(tmp_path: Path) -> None:
    """A restart gives everything that was not settled, and nothing that was."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        for number in range(10):
            await opened.append(delivery(number))
        groups = await read(opened, 10)
        opened.settle(groups[3])
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert opened.depth == 6
        assert numbers(await read(opened, 6)) == [4, 5, 6, 7, 8, 9]


async def test_depth_bytes_and_age_are_known_after_a_restart(tmp_path: Path) -> None:
    """The figures of an opened journal are those of the closed one, and fall to nothing when all is settled."""
    await fill(tmp_path, 5)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert opened.depth == 5
        assert opened.size_bytes == sum(
            HEADER_BYTES + len(encode_deliveries([delivery(number)])) for number in range(5)
        )
        assert opened.oldest_pending_ms == delivery(0).received_ms
        groups = await read(opened, 5)
        opened.settle(groups[1])
        assert (opened.depth, opened.oldest_pending_ms) == (3, delivery(2).received_ms)
        opened.settle(groups[-1])
        assert (opened.depth, opened.size_bytes) == (0, 0)
        assert opened.oldest_pending_ms is None


async def test_a_reader_that_is_behind_reads_from_disk_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit in memory for the reader comes from the file, in the same order, without a gap."""
    monkeypatch.setattr(journal, "TAIL_BYTES", 300)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        for number in range(40):
            await opened.append(delivery(number))
        groups = await read(opened, 40)
        for number in range(40, 60):
            await opened.append(delivery(number))
        groups += await read(opened, 20)
        assert numbers(groups) == list(range(60))


async def test_a_full_journal_rejects_until_deliveries_are_settled(tmp_path: Path) -> None:
    """At its bound in bytes the journal refuses by name; what it had stays; settling makes room."""
    async with Journal.open(settings(tmp_path, max_bytes=1024 * 1024), Metrics()) as opened:
        taken = 0
        while opened.check_capacity(100_000) is None:
            await opened.append(delivery(taken, size=100_000))
            taken += 1
        with pytest.raises(DeliveryRejected, match="journal holds") as refusal:
            opened.append(delivery(taken, size=100_000))
        assert refusal.value.reason == "journal_full"
        assert taken == 10
        assert opened.check_capacity(100) is None, "there is room for a small one"
        groups = await read(opened, taken)
        opened.settle(groups[-1])
        assert opened.check_capacity(100_000) is None
        await opened.append(delivery(99))


async def test_deliveries_beyond_max_pending_are_rejected_at_once(tmp_path: Path) -> None:
    """More deliveries than may wait for the disk are refused, those that wait are not."""
    async with Journal.open(settings(tmp_path), Metrics(), QueueSettings(max_pending=5)) as opened:
        waiting = [opened.append(delivery(number)) for number in range(5)]
        with pytest.raises(DeliveryRejected) as refusal:
            opened.append(delivery(5))
        assert refusal.value.reason == "queue_full"
        await asyncio.gather(*waiting)
        await opened.append(delivery(6))


async def test_too_little_free_disk_rejects(tmp_path: Path) -> None:
    """Below the floor of free disk the journal refuses before the disk is full, and says so when asked."""
    async with Journal.open(settings(tmp_path, min_free_bytes=1 << 60), Metrics()) as opened:
        with pytest.raises(DeliveryRejected) as refusal:
            opened.append(delivery(0))
        assert refusal.value.reason == "disk_full"
        told = opened.check_capacity(0)
        assert told is not None
        assert told.reason == "disk_full"


async def test_a_second_process_is_rejected_with_the_holder(tmp_path: Path) -> None:
    """The directory has one holder; another process learns who that is."""
    async with Journal.open(settings(tmp_path), Metrics()):
        script = (
            "import pathlib, sys; from bridge.queue.files import lock_directory\n"
            "with lock_directory(pathlib.Path(sys.argv[1])): print('got it')"
        )
        other = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert "JournalLocked" in other.stderr
        with pytest.raises(JournalLocked, match=r"in use by process \d+"):
            async with Journal.open(settings(tmp_path), Metrics()):
                pass


async def test_a_directory_that_cannot_be_created_is_an_error_with_the_fix(tmp_path: Path) -> None:
    """A wrong directory ends the start with one sentence that says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BridgeError, match="BRIDGE_JOURNAL_DIR"):
        async with Journal.open(settings(tmp_path / "file" / "below"), Metrics()):
            pass


async def test_parked_deliveries_stay_while_the_others_leave(tmp_path: Path) -> None:
    """A parked delivery outlives its group and a restart, in order, until it is unparked; the figures count it."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(4)))
        (group,) = await read(opened, 4)
        await opened.settle_and_park(group, [("t", delivery(1)), ("t", delivery(3)), ("u", delivery(2))])
        assert (opened.depth, opened.parked) == (3, {"t": 2, "u": 1})
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert (opened.depth, opened.parked) == (3, {"t": 2, "u": 1})
        assert opened.size_bytes > 0
        parked = await opened.read_parked("t", 10)
        assert [each.delivery for each in parked] == [delivery(1), delivery(3)]
        await opened.unpark(parked)
        assert (opened.depth, opened.parked) == (1, {"u": 1})


async def test_pending_deliveries_are_committed_when_the_journal_closes(tmp_path: Path) -> None:
    """Leaving the journal loses nothing that was taken."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        waiting = [opened.append(delivery(number)) for number in range(10)]
    assert all(each.done() and each.exception() is None for each in waiting)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert opened.depth == 10


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


@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_a_failed_commit_rejects_and_the_next_one_recovers(tmp_path: Path, kind: str) -> None:
    """A commit that fails is never acknowledged nor read; the next one is in a new segment, which is counted."""
    files, metrics = FaultyFiles(), Metrics()
    async with Journal.open(settings(tmp_path), metrics, files=files) as opened:
        await opened.append(delivery(0))
        files.fault = failing(kind)
        with pytest.raises(DeliveryRejected) as rejected:
            await opened.append(delivery(1))
        assert rejected.value.reason == "journal_unavailable"
        assert opened.check_capacity(0) is not None
        files.fault = lambda _: None
        await opened.append(delivery(2))
        assert opened.check_capacity(0) is None
        assert numbers(await read(opened, 2)) == [0, 2]
        assert value(metrics, "abandoned_segments_total") == 1
    async with Journal.open(settings(tmp_path), metrics) as opened:
        assert numbers(await read(opened, 2)) == [0, 2]
        assert value(metrics, "lost_deliveries_total") == 0


async def test_an_idle_journal_recovers_without_a_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that is not ready gets no deliveries: it tries the disk again by itself."""
    monkeypatch.setattr(group_commit, "HOUSEKEEPING_SECONDS", 0.01)
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        files.fault = failing("sync", times=3)
        with pytest.raises(DeliveryRejected):
            await opened.append(delivery(0))
        async with asyncio.timeout(10):
            while opened.check_capacity(0) is not None:  # noqa: ASYNC110 - the disk signals nothing
                await asyncio.sleep(0.01)


async def test_a_segment_that_is_removed_while_the_journal_is_open_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged afterwards is on disk again; the removal is logged and counted."""
    monkeypatch.setattr(group_commit, "HOUSEKEEPING_SECONDS", 0.01)
    metrics = Metrics()
    async with Journal.open(settings(tmp_path), metrics) as opened:
        await opened.append(delivery(0))
        with capture_logs() as log:
            for path in segments(tmp_path):
                path.unlink()
            async with asyncio.timeout(10):
                while len(log) < 2:  # noqa: ASYNC110 - the disk signals nothing
                    await asyncio.sleep(0.01)
        assert [line["event"] for line in log] == ["journal_write_failed", "journal_recovered"]
        assert "was removed" in log[0]["detail"]
        await opened.append(delivery(1))
        assert value(metrics, "abandoned_segments_total") == 1
        assert numbers(await read(opened, 2)) == [0, 1]
    async with Journal.open(settings(tmp_path), metrics) as opened:
        assert 1 in numbers(await opened.read())


async def test_a_segment_of_parked_deliveries_that_is_removed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is parked afterwards is on disk; the other deliveries are not rejected."""
    monkeypatch.setattr(group_commit, "HOUSEKEEPING_SECONDS", 0.01)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await opened.park([("t", delivery(0))])
        with capture_logs() as log:
            for path in segments(tmp_path / "parked" / "t"):
                path.unlink()
            async with asyncio.timeout(10):
                while not log:  # noqa: ASYNC110 - the disk signals nothing
                    await asyncio.sleep(0.01)
        assert (log[0]["event"], log[0]["parked"]) == ("journal_write_failed", True)
        assert opened.check_capacity(0) is None
        await opened.park([("t", delivery(1))])
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert [parked.delivery for parked in await opened.read_parked("t", 10)][-1:] == [delivery(1)]


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """The rejection says that the disk is full, not only that the journal is unavailable."""
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        files.fault = failing("write", number=errno.ENOSPC)
        with pytest.raises(DeliveryRejected) as rejected:
            await opened.append(delivery(0))
        assert rejected.value.reason == "disk_full"


async def test_a_full_quota_stays_reported_until_a_segment_can_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints still succeed in reserved space: they are no recovery, and are not written to find out."""
    monkeypatch.setattr(group_commit, "HOUSEKEEPING_SECONDS", 0.01)
    files = FaultyFiles()
    calls: list[str] = []

    def full(name: str) -> None:
        calls.append(name)
        if name == "allocate":
            raise OSError(errno.EDQUOT, "the quota is used up")

    async with Journal.open(settings(tmp_path, max_bytes=1 << 20), Metrics(), files=files) as opened:
        await opened.append(delivery(0))
        files.fault = full
        written = 1
        with contextlib.suppress(DeliveryRejected):
            while written < 1000:
                await opened.append(delivery(written, size=1000))
                written += 1
        calls.clear()
        with capture_logs() as log:
            await asyncio.sleep(0.3)
            rejection = opened.check_capacity(0)
            assert rejection is not None
            assert rejection.reason == "disk_full"
            assert calls.count("allocate") > 5
            assert calls.count("write") <= 1, "more than the checkpoint of the last commit"
            files.fault = lambda _: None
            async with asyncio.timeout(10):
                while opened.check_capacity(0) is not None:  # noqa: ASYNC110 - the disk signals nothing
                    await asyncio.sleep(0.01)
        assert [line["event"] for line in log] == ["journal_recovered"]
        await opened.append(delivery(written))
        assert numbers(await read(opened, written + 1)) == [*range(written), written]


def broken(_: str) -> None:
    """Fail as a bug would: not with OSError."""
    raise ZeroDivisionError


async def test_when_the_writer_fails_all_appends_are_rejected_and_the_journal_ends(tmp_path: Path) -> None:
    """The pending deliveries and all later ones are rejected, nothing waits forever, and the task group raises."""
    files = FaultyFiles()
    futures: list[asyncio.Future[None]] = []

    async def run() -> None:
        async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
            files.fault = broken
            futures.append(opened.append(delivery(0)))
            await asyncio.sleep(0)
            futures.append(opened.append(delivery(1)))
            try:
                await asyncio.sleep(10)
            finally:
                rejection = opened.check_capacity(0)
                assert rejection is not None
                assert rejection.reason == "journal_unavailable"
                with pytest.raises(DeliveryRejected):
                    await opened.append(delivery(2))

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(5):
            await run()
    assert raised.group_contains(RuntimeError, match="journal's writer")
    assert [type(future.exception()) for future in futures] == [DeliveryRejected] * 2


async def test_when_the_writer_fails_while_parking_the_caller_does_not_wait(tmp_path: Path) -> None:
    """The publisher gets the exception and ends, instead of waiting for a thread that runs no more jobs."""
    files = FaultyFiles()

    async def run() -> None:
        async with asyncio.timeout(5), Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
            await opened.append(delivery(0))
            (group,) = await read(opened, 1)
            files.fault = broken
            await opened.settle_and_park(group, [("t", delivery(0))])

    with pytest.raises(ExceptionGroup):
        await run()


async def test_when_a_commit_cannot_be_completed_its_deliveries_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the event loop after the sync ends the journal too; no request waits for its response."""
    futures: list[asyncio.Future[None]] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        metrics = Metrics()
        monkeypatch.setattr(metrics, "record_commit", fail)
        async with Journal.open(settings(tmp_path), metrics) as opened:
            futures.append(opened.append(delivery(0)))
            await asyncio.sleep(0)
            futures.append(opened.append(delivery(1)))
            await asyncio.sleep(10)

    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(5):
            await run()
    assert futures[0].exception() is None, "it is on disk"
    assert isinstance(futures[1].exception(), DeliveryRejected)


async def test_a_checkpoint_without_a_write_does_not_count_as_recovery(tmp_path: Path) -> None:
    """While the log's disk fails, unparking that has nothing to record neither ends nor hides the failure."""
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(2)))
        (group,) = await read(opened, 2)
        await opened.settle_and_park(group, [("t", delivery(0)), ("t", delivery(1))])
        parked = await opened.read_parked("t", 2)
        await opened.unpark(parked[1:])
        with capture_logs() as logs:
            files.fault = failing("sync")
            with pytest.raises(DeliveryRejected):
                await opened.append(delivery(2))
            await opened.unpark(parked[1:])
            assert opened.check_capacity(0) is not None
            files.fault = lambda _: None
            await opened.append(delivery(3))
        assert [line["event"] for line in logs] == ["journal_write_failed", "journal_recovered"]


async def test_a_failing_log_of_parked_deliveries_does_not_reject_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parking that fails is logged with each attempt; the main log works, and reports no recovery."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.01)
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        await opened.append(delivery(0))
        (group,) = await read(opened, 1)
        with capture_logs() as logs:
            files.fault = failing("sync", times=3)
            await opened.settle_and_park(group, [("t", delivery(0))])
            assert opened.check_capacity(0) is None
            await opened.append(delivery(1))
        assert [line["event"] for line in logs] == ["journal_write_failed"] * 3


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


async def test_parking_comes_before_settling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a parked delivery is not on disk its group is not settled: parking is tried again."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.01)
    files = FaultyFiles()
    async with Journal.open(settings(tmp_path), Metrics(), files=files) as opened:
        await opened.append(delivery(0))
        (group,) = await read(opened, 1)
        files.fault = failing("sync")
        parking = asyncio.create_task(opened.settle_and_park(group, [("t", delivery(0))]))
        await asyncio.sleep(0.05)
        assert (opened.depth, opened.parked) == (1, {})
        files.fault = lambda _: None
        await parking
        assert (opened.depth, opened.parked) == (1, {"t": 1})


async def test_parked_deliveries_unpark_in_any_order(tmp_path: Path) -> None:
    """A delivery that is unparked before an older one does not return, and the older one stays first."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(4)))
        (group,) = await read(opened, 4)
        await opened.settle_and_park(group, [("a/../b", delivery(number)) for number in range(4)])
        parked = await opened.read_parked("a/../b", 3)
        oldest = opened.oldest_pending_ms
        assert oldest == delivery(0).received_ms
        await opened.unpark([parked[1]])
        again = await opened.read_parked("a/../b", 10)
        assert [each.delivery for each in again] == [delivery(0), delivery(2), delivery(3)]
        await opened.unpark(again)
        assert (opened.depth, opened.size_bytes, opened.parked) == (0, 0, {})
        assert opened.oldest_pending_ms is None
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert (opened.depth, await opened.read_parked("a/../b", 10)) == (0, [])
    assert [path.name for path in (tmp_path / "parked").iterdir()] == ["a%2F..%2Fb"]


async def test_a_journal_of_version_0_1_0_with_deliveries_is_refused(tmp_path: Path) -> None:
    """It is named with what to do and exit code 78; an empty one is ignored."""
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as legacy, legacy:
        legacy.execute("CREATE TABLE groups (last INTEGER PRIMARY KEY)")
        legacy.execute("CREATE TABLE parked (number INTEGER PRIMARY KEY)")
        legacy.execute("INSERT INTO groups VALUES (5)")
    with pytest.raises(UnsupportedJournalVersion, match=r"drain it with version 0\.1\.0") as refused:
        async with Journal.open(settings(tmp_path), Metrics()):
            pass
    assert refused.value.exit_code == 78
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as legacy, legacy:
        legacy.execute("DELETE FROM groups")
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await opened.append(delivery(0))


async def test_the_directory_belongs_to_this_user_only_unless_it_exists(tmp_path: Path) -> None:
    """A directory that an administrator has made keeps its mode."""
    async with Journal.open(settings(tmp_path / "new"), Metrics()):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}
    (tmp_path / "existing").mkdir(0o750)
    async with Journal.open(settings(tmp_path / "existing"), Metrics(), files=Files()):
        assert (tmp_path / "existing").stat().st_mode & 0o777 == 0o750
