"""Reading a journal from outside: every intact delivery, every damaged place by name, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import BridgeError, UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.operations.journal_reader import JournalReader, open_reader
from bridge.queue.frame import State
from bridge.queue.log import Log
from tests.support.journal import UnsyncedFiles, flip, park, segments


class Writer:
    """The daemon's side of a journal: groups of two deliveries in small segments."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = Log(directory, directory / "quarantine", print, files=UnsyncedFiles(), segment_bytes=64 * 1024)
        self.ends = [State()]

    def append(self, count: int, size: int = 10) -> None:
        """Commit so many groups."""
        for _ in range(count):
            last = self.log.last + 2
            group = self.log.append([Delivery(last, "films", b"x" * size), Delivery(last, "films", b"{}")])
            self.ends.append(State(group.last, group.total, last))

    def settle(self, groups: int) -> None:
        """Record the first groups as settled."""
        self.log.settle(self.ends[groups])
        self.log.checkpoint()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """Return a writer of ten groups."""
    made = Writer(tmp_path)
    made.append(10)
    return made


def numbers(reader: JournalReader) -> list[str]:
    """Return the numbers of all pending deliveries."""
    return [entry.number for entry in reader.entries()]


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return all files."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_pending_deliveries_in_order_then_the_parked_ones(writer: Writer, tmp_path: Path) -> None:
    """Next to an open log: each pending delivery once, settled ones not, parked ones with their topic."""
    writer.settle(2)
    park(tmp_path, "some.topic", [Delivery(7, "films", b"parked")])
    before = snapshot(tmp_path)
    with open_reader(tmp_path) as reader:
        entries = list(reader.entries())
        assert [entry.number for entry in entries] == [*map(str, range(5, 21)), "some.topic/1"]
        assert (entries[-1].parked, entries[-1].delivery.body) == ("some.topic", b"parked")
        assert reader.count() == len(entries)
        assert reader.problems == []
    assert snapshot(tmp_path) == before


def test_many_segments_are_read_as_one(writer: Writer, tmp_path: Path) -> None:
    """The order continues across segments."""
    writer.append(100, size=3000)
    assert len(segments(tmp_path)) > 3
    with open_reader(tmp_path) as reader:
        assert numbers(reader) == [*map(str, range(1, 221))]
        assert (reader.problems, reader.segments) == ([], len(segments(tmp_path)))


def test_deliveries_settled_while_reading_are_not_a_problem(writer: Writer, tmp_path: Path) -> None:
    """The daemon deletes the segments that are being read: nothing is reported as lost, new deliveries are not read."""
    writer.append(200, size=3000)
    with open_reader(tmp_path) as reader:
        entries = reader.entries()
        assert [next(entries).number, next(entries).number] == ["1", "2"]
        writer.append(1)
        writer.settle(190)
        assert len(segments(tmp_path)) < 3
        rest = [entry.number for entry in entries]
        assert rest[-1] == "420"
        assert reader.problems == []


@pytest.mark.usefixtures("writer")
def test_each_damaged_place_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """A problem says where, what it cost, and where the copy is once a daemon has quarantined it."""
    park(tmp_path, "some.topic", [Delivery(7, "films", b"parked")])
    flip(segments(tmp_path)[0], segments(tmp_path)[0].read_bytes().index(b"xxxxxxxxxx", 900))
    (parked,) = segments(tmp_path / "parked" / "some.topic")
    flip(parked, parked.read_bytes().index(b"parked"))
    before = snapshot(tmp_path)
    with open_reader(tmp_path) as reader:
        found = numbers(reader)
        assert len(found) == 18
        first, second = reader.problems
        assert (first.lost, second.lost, first.copy) == (2, 1, None)
        assert first.first_lost is not None
        assert str(first.first_lost) not in found
        assert second.segment == str(parked)
    assert snapshot(tmp_path) == before
    daemon = Log(tmp_path, tmp_path / "quarantine", print, files=UnsyncedFiles())
    daemon.reader(0).read(daemon.last)
    with open_reader(tmp_path) as reader:
        assert numbers(reader) == found
        assert reader.problems[0].copy == str(reader.quarantined()[0])


def test_a_file_that_is_not_a_segment_is_a_problem(writer: Writer, tmp_path: Path) -> None:
    """It is named and left where it is."""
    foreign = tmp_path / f"{99:020}.log"
    foreign.write_bytes(b"garbage" * 100)
    with open_reader(tmp_path) as reader:
        assert len(numbers(reader)) == writer.log.last
        (problem,) = reader.problems
        assert (problem.segment, problem.bytes, problem.lost) == (str(foreign), 700, 0)


def test_a_directory_without_a_journal_is_an_error_with_the_fix(tmp_path: Path) -> None:
    """Also a journal of another version: each error says what to do."""
    with pytest.raises(BridgeError, match="BRIDGE_JOURNAL_DIR"), open_reader(tmp_path):
        pass
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(UnsupportedJournalVersion, match=r"version 0\.1\.0"), open_reader(tmp_path):
        pass
