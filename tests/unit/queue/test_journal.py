"""The journal alone: what it promises, on a real file, with the faults that a disk can have."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.config.sections import JournalSettings, QueueSettings
from bridge.errors import BridgeError, DeliveryRejected, JournalLocked, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue import journal, journal_disk, journal_file
from bridge.queue.interface import Group, Parked
from bridge.queue.journal import Journal
from bridge.queue.journal_file import FILE_NAME, FORMAT, JournalFile, pack
from bridge.telemetry.metrics import Metrics


def settings(directory: Path, **changes: int) -> JournalSettings:
    """Return settings whose bounds are out of the way but for what a test sets."""
    return JournalSettings(dir=directory, **{"min_free_bytes": 0, **changes})


def delivery(number: int, size: int = 20) -> Delivery:
    """Return a delivery that can be told from others."""
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


async def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    """Deliveries come out once, in the order in which they were appended, with the time and source they had."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(100)))
        groups = await read(opened, 100)
        assert numbers(groups) == list(range(100))
        assert groups[0].deliveries[7] == delivery(7)
        assert opened.depth == 100


async def test_a_burst_is_one_commit(tmp_path: Path) -> None:
    """What arrives in one turn of the loop is one row: one sync acknowledges all of it."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(50)))
        assert [len(group.deliveries) for group in await read(opened, 50)] == [50]


async def test_what_was_not_settled_comes_again_after_a_restart(tmp_path: Path) -> None:
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
        assert opened.size_bytes == sum(len(pack([delivery(number)])) for number in range(5))
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
    monkeypatch.setattr(journal_disk, "READ_BYTES", 100)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        for number in range(40):
            await opened.append(delivery(number))
        groups = await read(opened, 40)
        for number in range(40, 60):
            await opened.append(delivery(number))
        groups += await read(opened, 20)
        assert numbers(groups) == list(range(60))


async def test_settled_rows_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settled rows are removed with the next append, or soon without one."""
    monkeypatch.setattr(journal, "TRIM_SECONDS", 0.01)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        for number in range(3):
            await opened.append(delivery(number))
        groups = await read(opened, 3)
        opened.settle(groups[1])
        await opened.append(delivery(3))
        with sqlite3.connect(tmp_path / FILE_NAME) as file:
            assert [row[0] for row in file.execute("SELECT last FROM groups")] == [3, 4]
            opened.settle(groups[2])
            deadline = time.monotonic() + 10
            left = 2
            while left > 1 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                (left,) = file.execute("SELECT count(*) FROM groups").fetchone()
            assert [row[0] for row in file.execute("SELECT last FROM groups")] == [4]
        file.close()


async def test_a_full_journal_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
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


async def test_too_many_waiting_are_refused_at_once(tmp_path: Path) -> None:
    """More deliveries than may wait for the disk are refused, those that wait are not."""
    async with Journal.open(settings(tmp_path), Metrics(), QueueSettings(max_pending=5)) as opened:
        waiting = [opened.append(delivery(number)) for number in range(5)]
        with pytest.raises(DeliveryRejected) as refusal:
            opened.append(delivery(5))
        assert refusal.value.reason == "queue_full"
        await asyncio.gather(*waiting)
        await opened.append(delivery(6))


async def test_too_little_free_disk_refuses(tmp_path: Path) -> None:
    """Below the floor of free disk the journal refuses before the disk is full, and says so when asked."""
    async with Journal.open(settings(tmp_path, min_free_bytes=1 << 60), Metrics()) as opened:
        with pytest.raises(DeliveryRejected) as refusal:
            opened.append(delivery(0))
        assert refusal.value.reason == "disk_full"
        told = opened.check_capacity(0)
        assert told is not None
        assert told.reason == "disk_full"


async def test_a_failing_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that fails is a refusal, never a 200; when the disk works again so does the journal."""
    real = JournalFile.append
    broken = True

    def append(self: JournalFile, group: Group, packed: bytes, trimmed: int) -> None:
        if broken:
            raise sqlite3.OperationalError("disk I/O error")
        real(self, group, packed, trimmed)

    monkeypatch.setattr(JournalFile, "append", append)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        with pytest.raises(DeliveryRejected) as refusal:
            await opened.append(delivery(0))
        assert refusal.value.reason == "journal_unavailable"
        assert opened.check_capacity(0) is not None
        broken = False
        await opened.append(delivery(1))
        assert opened.check_capacity(0) is None
        assert numbers(await read(opened, 1)) == [1]


async def test_a_commit_that_failed_and_reached_the_disk_is_published_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row whose commit was reported as failed is a repeat at worst: it is read, and nothing collides with it."""
    real = JournalFile.append
    ambiguous = True

    def append(self: JournalFile, group: Group, packed: bytes, trimmed: int) -> None:
        real(self, group, packed, trimmed)
        if ambiguous:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(JournalFile, "append", append)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        with pytest.raises(DeliveryRejected):
            await asyncio.gather(*(opened.append(delivery(number)) for number in range(3)))
        ambiguous = False
        await opened.append(delivery(3))
        await opened.append(delivery(4))
        assert numbers(await read(opened, 5)) == [0, 1, 2, 3, 4]
        assert opened.depth == 5


def damage(path: Path, at: int, count: int = 1) -> None:
    """Flip bytes of a file."""
    content = bytearray(path.read_bytes())
    for offset in range(at, at + count):
        content[offset] ^= 0xFF
    path.write_bytes(content)


async def test_a_file_damaged_before_the_start_is_set_aside(tmp_path: Path) -> None:
    """A file that SQLite cannot open is renamed with the time, kept, counted, and the journal begins anew."""
    await fill(tmp_path, 3)
    damage(tmp_path / FILE_NAME, 0, 100)
    before = (tmp_path / FILE_NAME).read_bytes()
    metrics = Metrics()
    async with Journal.open(settings(tmp_path), metrics) as opened:
        assert opened.depth == 0
        await opened.append(delivery(9))
        assert numbers(await read(opened, 1)) == [9]
    (aside,) = tmp_path.glob(f"{FILE_NAME}.damaged-*")
    assert aside.read_bytes() == before
    assert metrics.registry.get_sample_value("bridge_journal_corruptions_total") == 1


async def test_a_flipped_bit_in_a_delivery_is_noticed(tmp_path: Path) -> None:
    """SQLite does not notice a changed value; the checksum does, and the file is set aside with all it holds."""
    await fill(tmp_path, 3)
    path = tmp_path / FILE_NAME
    damage(path, path.read_bytes().index(b"1..................."))
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert opened.depth == 3
        reading = asyncio.create_task(opened.read())
        while not list(tmp_path.glob(f"{FILE_NAME}.damaged-*")):  # noqa: ASYNC110 - a file signals nothing
            await asyncio.sleep(0.01)
        await opened.append(delivery(7))
        assert numbers(await reading) == [7]
        assert opened.depth == 1


async def test_an_older_format_is_upgraded_and_a_newer_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of an older version is read by a newer one; the older version then refuses it by name."""
    await fill(tmp_path, 2)
    with monkeypatch.context() as newer:
        newer.setattr(journal_file, "FORMAT", FORMAT + 1)
        newer.setattr(journal_file, "_UPGRADES", (*journal_file._UPGRADES, "CREATE TABLE more (something);"))
        async with Journal.open(settings(tmp_path), Metrics()) as opened:
            assert numbers(await read(opened, 2)) == [0, 1]
    with pytest.raises(UnsupportedJournalVersion, match=f"format {FORMAT + 1}"):
        async with Journal.open(settings(tmp_path), Metrics()):
            pass
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    """The directory has one holder; another process learns who that is."""
    async with Journal.open(settings(tmp_path), Metrics()):
        script = (
            "import pathlib, sys; from bridge.queue.journal_file import lock\n"
            "with lock(pathlib.Path(sys.argv[1])): print('got it')"
        )
        other = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert "JournalLocked" in other.stderr
        with pytest.raises(JournalLocked, match=r"in use by process \d+"):
            async with Journal.open(settings(tmp_path), Metrics()):
                pass


async def test_a_directory_that_cannot_be_made_is_told_with_the_fix(tmp_path: Path) -> None:
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
        await opened.park(group, [("t", delivery(1)), ("t", delivery(3)), ("u", delivery(2))])
        assert (opened.depth, opened.parked) == (3, {"t": 2, "u": 1})
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert (opened.depth, opened.parked) == (3, {"t": 2, "u": 1})
        assert opened.size_bytes > 0
        parked = await opened.read_parked("t", 10)
        assert [each.delivery for each in parked] == [delivery(1), delivery(3)]
        await opened.unpark(parked)
        assert (opened.depth, opened.parked) == (1, {"u": 1})


async def test_a_backlogs_space_goes_back_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a backlog is published its file shrinks to what is kept for the next."""
    monkeypatch.setattr(journal, "TRIM_SECONDS", 0.01)
    monkeypatch.setattr(journal_disk, "KEEP_FREE_BYTES", 100_000)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        for number in range(20):
            await opened.append(delivery(number, size=500_000))
        groups = await read(opened, 20)
        path = tmp_path / FILE_NAME
        opened.settle(groups[-1])
        deadline = time.monotonic() + 30
        pages = 1 << 30
        with sqlite3.connect(path) as file:
            while pages > 100 and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                (pages,) = file.execute("PRAGMA page_count").fetchone()
        file.close()
        assert pages <= 100
    assert path.stat().st_size <= 100 * 4096


async def test_what_waits_is_committed_when_the_journal_closes(tmp_path: Path) -> None:
    """Leaving the journal loses nothing that was taken."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        waiting = [opened.append(delivery(number)) for number in range(10)]
    assert all(each.done() and each.exception() is None for each in waiting)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert opened.depth == 10


async def test_a_damaged_parked_delivery_sets_the_file_aside(tmp_path: Path) -> None:
    """What is parked and cannot be decoded is no reason to end: the file is set aside, and the journal goes on."""
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await asyncio.gather(*(opened.append(delivery(number)) for number in range(2)))
        (group,) = await read(opened, 2)
        await opened.park(group, [("t", delivery(0))])
    with sqlite3.connect(tmp_path / FILE_NAME) as file:
        file.execute("UPDATE parked SET delivery = x'c1'")
    file.close()
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        assert await opened.read_parked("t", 10) == []
        assert (opened.depth, opened.parked) == (0, {})
        assert list(tmp_path.glob(f"{FILE_NAME}.damaged-*"))
        await opened.append(delivery(7))
        assert numbers(await read(opened, 1)) == [7]


async def test_parked_deliveries_that_cannot_be_read_now_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails while a topic is mended does not make its deliveries look published: they are read again."""
    monkeypatch.setattr(journal_disk, "RETRY_SECONDS", 0.01)
    real = JournalFile.parked
    failures = iter([sqlite3.OperationalError("disk I/O error"), OSError("read-only")])

    def parked(self: JournalFile, topic: str, limit: int) -> list[Parked]:
        for failure in failures:
            raise failure
        return real(self, topic, limit)

    monkeypatch.setattr(JournalFile, "parked", parked)
    async with Journal.open(settings(tmp_path), Metrics()) as opened:
        await opened.append(delivery(0))
        (group,) = await read(opened, 1)
        await opened.park(group, [("t", group.deliveries[0])])
        assert [each.delivery for each in await opened.read_parked("t", 10)] == [delivery(0)]
