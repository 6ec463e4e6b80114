"""The journal when its disk or its writer fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.errors import DeliveryRejected
from bridge.queue import group_commit, journal
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.journal import segments
from tests.unit.queue.journals import FaultyFiles, broken, delivery, failing, numbers, read, settings, value


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
        assert "gumlet-bridge journal verify" in logs[0]["hint"]


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
