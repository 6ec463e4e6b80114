"""The journal: group commit, order, capacity, parking, and what a restart finds."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.config.sections import QueueSettings
from bridge.errors import BridgeError, DeliveryRejected, JournalLocked, UnsupportedJournalVersion
from bridge.queue import journal
from bridge.queue.files import Files
from bridge.queue.frame import HEADER_BYTES, encode_deliveries
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.unit.queue.journals import FaultyFiles, delivery, failing, fill, numbers, read, settings


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


async def test_age_of_a_parked_delivery_is_known_before_it_is_read(tmp_path: Path) -> None:
    """The first delivery parked for a topic has its own age, also after older ones were published."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await opened.park([("t", delivery(3))])
        assert opened.oldest_pending_ms == delivery(3).received_ms
        await opened.unpark(await opened.read_parked("t", 1))
        await opened.park([("t", delivery(5))])
        assert opened.oldest_pending_ms == delivery(5).received_ms


async def test_age_of_a_delivery_that_is_only_on_disk_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that does not fit in memory for the reader has its age, also after older ones were settled."""
    monkeypatch.setattr(journal, "TAIL_BYTES", 0)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await opened.append(delivery(3))
        assert opened.oldest_pending_ms == delivery(3).received_ms
        opened.settle((await read(opened, 1))[0])
        await opened.append(delivery(5))
        assert opened.oldest_pending_ms == delivery(5).received_ms


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
