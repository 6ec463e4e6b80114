"""Reading a journal from outside: everything that is whole, every fault by name, and the daemon never notices."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.errors import BridgeError, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.operations import journal_reader as journal_view
from bridge.operations.journal_reader import viewing
from bridge.queue.interface import Group
from bridge.queue.journal_file import FILE_NAME, JournalFile, pack


class Writer:
    """The daemon's side of a journal: groups of two deliveries."""

    def __init__(self, directory: Path) -> None:
        self.file = JournalFile(directory / FILE_NAME)
        self.last = self.total = 0

    def append(self, count: int, trimmed: int = 0, size: int = 10) -> None:
        """Commit so many groups."""
        for _ in range(count):
            last = self.last + 2
            deliveries = [Delivery(last, "films", b"x" * size), Delivery(last, "films", b"{}")]
            packed = pack(deliveries)
            self.total += len(packed)
            self.file.append(Group(last - 1, last, last, len(packed), self.total, deliveries), packed, trimmed)
            self.last = last


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """Return a writer of ten groups."""
    made = Writer(tmp_path)
    made.append(10)
    return made


def places(directory: Path) -> list[str]:
    """Return the places of all that a journal holds; it must have no fault."""
    with viewing(directory) as view:
        found = [held.place for held in view.held()]
        assert view.faults == []
        assert view.count() == len(found)
    return found


def test_everything_in_order_the_parked_last(writer: Writer, tmp_path: Path) -> None:
    """While the daemon has the file open: each delivery once, those settled left out, parked ones with their topic."""
    writer.append(1, trimmed=4)
    writer.file.park(0, [("some.topic", Delivery(7, "films", b"parked"))])
    assert places(tmp_path) == [*map(str, range(5, 23)), "parked-1"]
    with viewing(tmp_path) as view:
        *_, last = view.held()
    assert last.parked == "some.topic"
    assert last.delivery.body == b"parked"


def test_pages_join(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal larger than what is read at once is read whole."""
    writer.append(40, size=3000)
    for number in range(5):
        writer.file.park(0, [("some.topic", Delivery(number, "films", b"{}"))])
    monkeypatch.setattr(journal_view, "PAGE_BYTES", 10_000)
    monkeypatch.setattr(journal_view, "PARKED_ROWS", 2)
    assert places(tmp_path) == [*map(str, range(1, 101)), *(f"parked-{number}" for number in range(1, 6))]


def test_the_writer_never_waits(writer: Writer, tmp_path: Path) -> None:
    """In the middle of reading, the daemon commits and its checkpoint empties the write-ahead log."""
    with viewing(tmp_path) as view:
        held = view.held()
        assert next(held).place == "1"
        writer.append(1)
        with sqlite3.connect(tmp_path / FILE_NAME, timeout=0) as other:
            busy, frames, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, frames) == (0, 0)
        assert [each.place for each in held][-1] == "20", "what came after the beginning is not read"


def test_what_is_settled_meanwhile_is_no_fault(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon removes what was read and more: no gap is seen where none is."""
    monkeypatch.setattr(journal_view, "PAGE_BYTES", 1)
    with viewing(tmp_path) as view:
        held = view.held()
        assert [next(held).place, next(held).place] == ["1", "2"]
        writer.append(1, trimmed=6)
        assert [each.place for each in held] == [*map(str, range(7, 21))]
        assert view.faults == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE groups SET checksum = checksum + 1 WHERE last = 10", "deliveries 9 to 10 do not have their checksum"),
        ("DELETE FROM groups WHERE last = 10", "deliveries 11 to 12 follow 8: between them something is missing"),
        ("UPDATE groups SET total = total + 5 WHERE last = 20", "deliveries 19 to 20 have the total "),
        ("UPDATE groups SET received_ms = 1 WHERE last = 10", "deliveries 9 to 10 are 2 in "),
        ("UPDATE parked SET delivery = x'ff'", "parked delivery 1 for some.topic cannot be read: "),
        ("UPDATE parked SET size = 1", "parked delivery 1 for some.topic has "),
    ],
)
def test_each_fault_is_named_and_the_rest_given(writer: Writer, tmp_path: Path, damage: str, said: str) -> None:
    """One fault, one line that names the deliveries; what is not hit is read all the same."""
    writer.file.park(0, [("some.topic", Delivery(7, "films", b"parked"))])
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute(damage)
    with viewing(tmp_path) as view:
        found = [held.place for held in view.held()]
    (fault,) = view.faults
    assert fault.startswith(said)
    assert {"1", "8", "19", "20"} <= set(found)


def test_a_page_of_zeros_is_a_fault(writer: Writer, tmp_path: Path) -> None:
    """Where SQLite itself cannot read on, that is told too."""
    writer.append(50, size=3000)
    writer.file.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8192] = bytes(8192)
    path.write_bytes(content)
    with viewing(tmp_path) as view:
        found = [held.place for held in view.held()]
    assert view.faults
    assert len(found) < 120


def test_no_journal_is_told(tmp_path: Path) -> None:
    """A directory without a journal, what is no journal, and one of a newer version: each ends with what to do."""
    with pytest.raises(BridgeError, match="BRIDGE_JOURNAL_DIR"), viewing(tmp_path):
        pass
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(BridgeError, match="gumlet-bridge journal salvage"), viewing(tmp_path):
        pass
    (tmp_path / FILE_NAME).unlink()
    with sqlite3.connect(tmp_path / FILE_NAME) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(UnsupportedJournalVersion, match="format 99"), viewing(tmp_path):
        pass
