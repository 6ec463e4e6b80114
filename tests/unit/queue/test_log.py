"""The append-only log: durability, order, rotation, deletion, and what damage costs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bridge.errors import UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue.files import Files
from bridge.queue.frame import FRAME_MAGIC, HEADER_BYTES, PREAMBLE_BYTES, State, encode_deliveries
from bridge.queue.interface import Group
from bridge.queue.log import Log
from bridge.queue.segment import Damage
from tests.support.journal import UnsyncedFiles, flip

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


def test_deliveries_are_read_in_order_across_segments_and_reopening(tmp_path: Path) -> None:
    """Rotation and a restart keep every delivery, its order and the running totals."""
    first = Opened(tmp_path)
    groups = first.append(100)
    assert len(first.segments()) > 2
    assert first.read() == list(range(1, 201))
    first.log.close()
    second = Opened(tmp_path)
    assert (second.log.last, second.log.total) == (200, groups[-1].total)
    assert second.log.state.oldest_ms == 1_000_001
    second.append(1)
    assert second.read() == list(range(1, 203))
    assert second.damage == []


def test_settled_segments_are_deleted_and_sequence_numbers_continue(tmp_path: Path) -> None:
    """Once all is settled only the last segment remains, and the next delivery after a restart gets the next number."""
    first = Opened(tmp_path)
    groups = first.append(100)
    first.settle(groups[49])
    assert first.read() == list(range(101, 201))
    assert int(first.segments()[0].stem) <= 101
    first.settle(groups[-1])
    assert len(first.segments()) == 1
    first.log.close()
    second = Opened(tmp_path)
    assert (second.log.last, second.log.state.settled, second.read()) == (200, 200, [])
    assert second.append(1)[0].first == 201
    assert len(second.segments()) == 1
    assert second.damage == []


def test_pending_deliveries_are_never_deleted_before_their_settling_is_durable(tmp_path: Path) -> None:
    """Settling alone deletes nothing: only a synced frame that records it does."""
    opened = Opened(tmp_path)
    groups = opened.append(100)
    before = opened.segments()
    opened.log.settle(State(groups[-1].last, groups[-1].total, 0))
    assert opened.segments() == before
    opened.log.checkpoint()
    assert len(opened.segments()) == 1


@pytest.mark.parametrize("offset", [0, 4, 8, 12, 16, 24, 32, 40, 48, 56, HEADER_BYTES, HEADER_BYTES + 500])
def test_a_flipped_bit_costs_its_own_frame_only(tmp_path: Path, offset: int) -> None:
    """Whatever field is hit: the other deliveries are read, the loss is exact, the bytes are quarantined."""
    opened = Opened(tmp_path)
    opened.append(10)
    opened.log.checkpoint()
    size = HEADER_BYTES + len(encode_deliveries([Delivery(1_000_001, "s", b"." * 1000)] * 2))
    begin = PREAMBLE_BYTES + HEADER_BYTES + 4 * size
    flip(opened.segments()[0], begin + offset)
    assert opened.read() == [n for n in range(1, 21) if n not in {9, 10}]
    (damage,) = opened.damage
    assert (damage.first_lost, damage.lost, damage.offset, damage.length) == (9, 2, begin, size)
    assert damage.copy is not None
    assert opened.segments()[0].read_bytes()[begin : begin + size] == damage.copy.read_bytes()


def test_the_settled_number_of_a_damaged_frame_is_not_used(tmp_path: Path) -> None:
    """A flipped bit in the last frame that would settle everything settles nothing."""
    first = Opened(tmp_path)
    first.append(2)
    first.log.checkpoint()
    first.log.close()
    segment = first.segments()[0]
    flip(segment, segment.read_bytes().rindex(FRAME_MAGIC) + SETTLED_OFFSET, bit=4)
    second = Opened(tmp_path)
    assert second.log.state.settled == 0
    assert second.read() == [1, 2, 3, 4]


def test_damage_to_the_last_deliveries_is_counted_exactly_after_a_checkpoint(tmp_path: Path) -> None:
    """The frame that a checkpoint writes names the next number, so that the loss of the frame before it is known."""
    first = Opened(tmp_path)
    first.append(2)
    first.log.checkpoint()
    first.log.close()
    content = first.segments()[0].read_bytes()
    flip(first.segments()[0], content.rindex(b"4..."))
    second = Opened(tmp_path)
    assert second.log.last == 4
    assert second.read() == [1, 2]
    assert second.lost == 2


def test_an_interrupted_last_frame_is_quarantined_and_its_number_used_again(tmp_path: Path) -> None:
    """A torn tail is not silent, and the log continues in a new segment with the same sequence number."""
    first = Opened(tmp_path)
    first.append(3)
    first.log.close()
    segment = first.segments()[0]
    content = segment.read_bytes()
    at = content.rindex(b"6...")
    segment.write_bytes(content[:at] + bytes(len(content) - at))
    second = Opened(tmp_path)
    assert second.log.last == 4
    (damage,) = second.damage
    assert damage.lost == 0
    assert "2 deliveries are lost" in damage.detail
    (copy,) = second.copies()
    assert copy.startswith(f"x-{1:020}@{damage.offset}-")
    second.append(1)
    assert [path.stem for path in second.segments()] == [f"{1:020}", f"{5:020}"]
    assert second.read() == [1, 2, 3, 4, 5, 6]
    assert len(second.damage) == 1


def test_a_missing_segment_is_counted_exactly(tmp_path: Path) -> None:
    """A segment that disappeared from the middle costs its own deliveries, counted from the names around it."""
    opened = Opened(tmp_path)
    opened.append(100)
    _, second, third, *_ = opened.segments()
    second.unlink()
    missing = range(int(second.stem), int(third.stem))
    assert opened.read() == [n for n in range(1, 201) if n not in missing]
    (damage,) = opened.damage
    assert (damage.first_lost, damage.lost) == (missing[0], len(missing))


@pytest.mark.parametrize("name", [2, 101, 999])
def test_a_duplicated_segment_is_quarantined_and_costs_nothing(tmp_path: Path, name: int) -> None:
    """A copy of a segment under another number is not a segment of this log, wherever its name would put it."""
    first = Opened(tmp_path)
    first.append(100)
    first.log.close()
    (first.directory / f"{name:020}.log").write_bytes(first.segments()[0].read_bytes())
    second = Opened(tmp_path)
    assert second.read() == list(range(1, 201))
    assert list(second.copies()) == [f"x-{name:020}.log"]
    assert second.lost == 0


@pytest.mark.parametrize("content", [b"", bytes(100_000), b"\xffGK\xfe" * 1000])
@pytest.mark.parametrize("name", [5, 999])
def test_an_empty_or_foreign_file_does_not_prevent_the_start(tmp_path: Path, name: int, content: bytes) -> None:
    """A file that only has a segment's name is moved to quarantine, and the others are read."""
    first = Opened(tmp_path)
    first.append(10)
    first.log.close()
    (first.directory / f"{name:020}.log").write_bytes(content)
    second = Opened(tmp_path)
    assert second.read() == list(range(1, 21))
    assert second.copies() == {f"x-{name:020}.log": content}
    assert second.append(1)[0].first == 21


def test_an_unreadable_file_does_not_prevent_the_start(tmp_path: Path) -> None:
    """A directory or a file that cannot be opened in a segment's place is moved to quarantine."""
    first = Opened(tmp_path)
    first.append(1)
    first.log.close()
    (first.directory / f"{7:020}.log").mkdir()
    second = Opened(tmp_path)
    assert second.read() == [1, 2]
    assert (second.quarantine / f"x-{7:020}.log").is_dir()


def test_a_file_that_cannot_be_quarantined_is_neither_replaced_nor_reported_as_moved(tmp_path: Path) -> None:
    """The report names no copy, and the sequence number of the file's name waits until it can be moved."""
    files = FailingFiles()
    first = Opened(tmp_path)
    first.append(1)
    first.log.close()
    foreign = first.directory / f"{3:020}.log"
    foreign.write_bytes(b"foreign")
    files.fail = "rename"
    second = Opened(tmp_path, files)
    assert [damage.copy for damage in second.damage] == [None]
    files.fail = "link"
    with pytest.raises(OSError, match="Input/output"):
        second.append(1)
    assert foreign.read_bytes() == b"foreign"
    second.append(1)
    assert second.read() == [1, 2, 3, 4]
    assert second.copies() == {f"x-{3:020}.log": b"foreign"}


def test_a_settled_segment_that_cannot_be_quarantined_is_kept(tmp_path: Path) -> None:
    """Bytes that could not be copied are never deleted: their segment is moved, with the next write that can."""
    files = FailingFiles()
    opened = Opened(tmp_path, files)
    groups = opened.append(100)
    segment, content = opened.segments()[0], opened.segments()[0].read_bytes()
    flip(segment, content.index(b"4..."))
    files.fail = "create"
    assert opened.read() == [number for number in range(1, 201) if number not in {3, 4}]
    assert [damage.copy for damage in opened.damage] == [None]
    files.fail = "rename"
    opened.settle(groups[-2])
    assert segment.exists()
    opened.settle(groups[-1])
    assert not segment.exists()
    assert (opened.quarantine / f"x-{segment.name}").stat().st_size == len(content)


def test_damage_at_the_place_of_earlier_damage_is_reported_and_copied_too(tmp_path: Path) -> None:
    """A segment can be replaced by one of the same name: other bytes at the same offset are other damage."""
    for content in (b"first", b"second"):
        opened = Opened(tmp_path)
        opened.log.append([Delivery(1, "s", content)])
        opened.log.close()
        flip(opened.segments()[0], opened.segments()[0].read_bytes().index(content))
        assert [bool(damage.copy) for damage in Opened(tmp_path).damage] == [True]
        assert Opened(tmp_path).damage == [], "the same bytes are reported once"
    assert len(opened.copies()) == 2


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of a newer version ends the start and is not changed; a damaged version field is damage only."""
    with monkeypatch.context() as newer:
        newer.setattr("bridge.queue.frame.VERSION", 2)
        first = Opened(tmp_path)
        first.append(1)
        first.log.close()
    content = first.segments()[0].read_bytes()
    with pytest.raises(UnsupportedJournalVersion, match="format 2"):
        Opened(tmp_path)
    assert first.segments()[0].read_bytes() == content
    flip(first.segments()[0], 8, bit=8)
    assert Opened(tmp_path).read() == [1, 2]


def test_a_body_that_contains_a_segment_is_not_mistaken_for_frames(tmp_path: Path) -> None:
    """The search for the next frame does not find frames inside a damaged body: they are valid at one place only."""
    opened = Opened(tmp_path)
    opened.append(2, size=100)
    copied = opened.segments()[0].read_bytes()[:1000]
    opened.log.append([Delivery(1, "s", copied)])
    opened.append(1)
    flip(opened.segments()[0], opened.segments()[0].read_bytes().index(copied, 1) - 1)
    assert opened.read() == [1, 2, 3, 4, 6, 7]
    assert opened.lost == 1


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


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_failed_commit_abandons_the_segment_and_is_never_read(tmp_path: Path, call: str) -> None:
    """The next frame is in a new segment with the same number; the failed one is not read, even if it is on disk."""
    files = FailingFiles()
    opened = Opened(tmp_path, files)
    opened.append(2)
    reader = opened.log.reader(0)
    assert len(reader.read(2)) == 1
    files.fail = call
    with pytest.raises(OSError, match="Input/output"):
        opened.log.append([Delivery(1, "s", b"failed")])
    assert opened.log.abandoned == 1
    opened.append(1)
    assert [path.stem for path in opened.segments()] == [f"{1:020}", f"{5:020}"]
    assert [group.first for group in reader.read(opened.log.last)] == [3, 5]
    assert opened.read() == [1, 2, 3, 4, 5, 6]
    opened.log.close()
    assert Opened(tmp_path).read() == [1, 2, 3, 4, 5, 6]
    assert opened.lost == 0


def test_a_segment_whose_first_frame_failed_is_replaced(tmp_path: Path) -> None:
    """Two failures in a row need the same segment name twice; a reader that has the first file open is not misled."""
    files = FailingFiles()
    opened = Opened(tmp_path, files)
    opened.append(2)
    for _ in range(3):
        opened.log.close()
        files.calls.clear()
        opened.log.checkpoint()
        opened.settle(Group(1, 2, 1_000_001, 1, 1, []))
        files.fail = "fsync"
        with pytest.raises(OSError, match="Input/output"):
            opened.log.append([Delivery(1, "s", b"failed")])
    opened.append(2)
    assert opened.read() == [3, 4, 5, 6, 7, 8]
    assert opened.lost == 0


@pytest.mark.parametrize("call", ["fallocate", "pwrite", "fsync", "fsync_directory"])
def test_a_failed_rotation_keeps_the_segment_in_use(tmp_path: Path, call: str) -> None:
    """On a full or failing disk a delivery that needs a new segment is rejected; settling still works."""
    files = FailingFiles()
    opened = Opened(tmp_path, files)
    groups = opened.append(28)
    before = opened.segments()
    files.fail = call
    with pytest.raises(OSError, match="Input/output"):
        opened.append(1, size=10_000)
    opened.settle(groups[3])
    if call != "fsync_directory":
        assert opened.segments() == before
    opened.append(1, size=10_000)
    assert opened.read() == list(range(9, 59))
    opened.log.close()
    assert Opened(tmp_path).read() == list(range(9, 59))


def test_a_frame_larger_than_a_segment_gets_a_segment_of_its_size(tmp_path: Path) -> None:
    """No group commit is too large for the log."""
    opened = Opened(tmp_path)
    opened.append(1)
    opened.append(1, size=200_000)
    opened.append(1)
    assert opened.read() == [1, 2, 3, 4, 5, 6]


def test_files_belong_to_this_user_only(tmp_path: Path) -> None:
    """Segments and quarantined copies have mode 0600, their directories 0700."""
    opened = Opened(tmp_path)
    opened.append(2)
    flip(opened.segments()[0], 500)
    opened.read()
    (copy,) = opened.quarantine.iterdir()
    modes = [path.stat().st_mode & 0o777 for path in (copy, *opened.segments(), opened.directory, opened.quarantine)]
    assert modes == [0o600, 0o600, 0o700, 0o700]


def test_restarts_leave_no_reserved_space_behind(tmp_path: Path) -> None:
    """A segment completed by a restart is cut to its frames: restarts during an outage do not fill the disk."""
    for number in range(5):
        opened = Opened(tmp_path)
        opened.append(1, size=10)
        opened.log.close()
        assert len(opened.segments()) == number + 1
    assert [path.stat().st_size < 1000 for path in opened.segments()] == [True] * 4 + [False]
    assert Opened(tmp_path).read() == list(range(1, 11))
