"""Reading a log whose files are damaged, missing, foreign or of another version."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import UnsupportedJournalVersion
from bridge.event import Delivery
from bridge.queue.frame import FRAME_MAGIC, HEADER_BYTES, PREAMBLE_BYTES, encode_deliveries
from tests.support.journal import flip
from tests.unit.queue.logs import SETTLED_OFFSET, FailingFiles, Opened


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
