"""Damage to a small log, exhaustively: every bit, every length, every sector, every segment.

The log has 20 groups in two segments and a parked log, all of it acknowledged and confirmed by a frame without
deliveries. After each single change of one file:

* every delivery outside the damaged frame is read, in order, once; none is read that was not appended;
* the deliveries that are not read are counted as lost, exactly, with nothing silent;
* opening never raises, the next append works, and the log continues with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import pytest

from bridge.event import Delivery
from bridge.queue import log as log_module
from bridge.queue.files import Files
from bridge.queue.frame import PREAMBLE_BYTES, Frame
from bridge.queue.log import Log
from bridge.queue.log_reader import LogReader
from bridge.queue.segment import Damage, Segment
from tests.enumeration.memory_files import ROOT, MemoryFiles

SEGMENT_BYTES = 2048
SECTOR_BYTES = 512
GROUPS = 20
SEGMENTS = 2
LOG = ROOT / "log"
QUARANTINE = ROOT / "quarantine"


class Original(NamedTuple):
    """An undamaged log: its files, its deliveries, and where in the files each frame lies."""

    files: dict[str, bytes]
    numbers: list[int]
    frames: dict[str, list[tuple[int, int, set[int]]]]

    def loses_confirmation(self, name: str, end: int) -> bool:
        """Return whether damage up to `end` of a segment reaches the frame that confirms the last deliveries.

        Without it, they look like a write that a power cut interrupted: they are reported, not counted.
        """
        return name == list(self.files)[-1] and end > self.frames[name][-1][0]

    def affected(self, name: str, begin: int, end: int) -> set[int]:
        """Return the deliveries of the frames of a segment that a range touches."""
        touched = [numbers for start, stop, numbers in self.frames[name] if start < end and begin < stop]
        return set().union(*touched)


class Reopened(NamedTuple):
    """A log after a change: the deliveries read, and the number counted as lost."""

    numbers: list[int]
    lost: int
    damage: list[Damage]


def open_log(files: Files, damage: list[Damage]) -> Log:
    """Open the log in files."""
    return Log(LOG, QUARANTINE, damage.append, files=files, segment_bytes=SEGMENT_BYTES)


def read_numbers(log: Log, reader: LogReader) -> list[int]:
    """Return the numbers in the bodies of the deliveries that the reader has not read."""
    numbers: list[int] = []
    while groups := reader.read(log.last):
        numbers += [int(each.body.partition(b":")[0]) for group in groups for each in group.deliveries]
    return numbers


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Original:
    """Write the log that is damaged."""
    monkeypatch.setattr(log_module, "MIN_SEGMENT_BYTES", SEGMENT_BYTES)
    monkeypatch.setattr(log_module, "RESERVED_BYTES", 64)
    disk = MemoryFiles({})
    log = open_log(disk, [])
    numbers: list[int] = []
    for group in range(GROUPS):
        new = list(range(len(numbers) + 1, len(numbers) + 2 + group % 3))
        log.append([Delivery(1_700_000_000_000, "s", f"{number}:".encode() + b"\xff" * (3 * group)) for number in new])
        numbers += new
    log.checkpoint()
    log.close()
    files: dict[str, bytes] = {}
    frames: dict[str, list[tuple[int, int, set[int]]]] = {}
    for name in disk.names(LOG):
        with contextlib.closing(Segment(disk, LOG / name)) as segment:
            files[name] = bytes(segment.read(0, segment.size))
            walked = [frame for frame in segment.walk() if isinstance(frame, Frame)]
            frames[name] = [(f.offset, f.end, set(range(f.first, f.last + 1))) for f in walked]
    assert len(files) == SEGMENTS
    return Original(files, numbers, frames)


def reopen(contents: dict[str, bytes]) -> Reopened:
    """Open files as a log, read everything, append one more delivery and read it."""
    damage: list[Damage] = []
    log = open_log(MemoryFiles({f"log/{name}": content for name, content in contents.items()}), damage)
    reader = log.reader(log.state.settled)
    numbers = read_numbers(log, reader)
    lost = sum(each.lost for each in damage)
    log.append([Delivery(1, "s", b"9999:")])
    assert read_numbers(log, reader) == [9999]
    log.close()
    return Reopened(numbers, lost, damage)


def check(original: Original, found: Reopened, may_miss: set[int], what: object) -> None:
    """Find exactly what may be missing missing, and counted."""
    missing = [number for number in original.numbers if number not in set(found.numbers)]
    assert found.numbers == [number for number in original.numbers if number not in set(missing)], what
    assert set(missing) <= may_miss, (what, missing, may_miss)
    assert found.lost == len(missing), (what, found.lost, missing, found.damage)
    if missing:
        assert found.damage, what


def end_of_frames(original: Original, name: str) -> int:
    """Return the offset behind the last frame of a segment."""
    return original.frames[name][-1][1]


@pytest.mark.parametrize("number", range(SEGMENTS))
def test_every_flipped_bit_costs_at_most_its_frame_and_is_counted(
    original: Original, number: int, record_property: Callable[[str, object], None]
) -> None:
    """Each bit of the preamble and the frames of a segment, and of the first bytes behind them."""
    name = list(original.files)[number]
    content = original.files[name]
    flips = costly = 0
    for offset in range(min(len(content), end_of_frames(original, name) + 16)):
        affected = original.affected(name, offset, offset + 1)
        for bit in range(8):
            changed = bytearray(content)
            changed[offset] ^= 1 << bit
            found = reopen(original.files | {name: bytes(changed)})
            check(original, found, affected, (name, offset, bit))
            assert offset < PREAMBLE_BYTES or not affected or found.lost == len(affected), (name, offset, bit)
            assert found.damage, (name, offset, bit)
            flips += 1
            costly += bool(found.lost)
    record_property("covered", f"{name}: {flips} single-bit flips, {costly} of them cost their frame, none another")
    with_deliveries = sum(end - begin for begin, end, numbers in original.frames[name] if numbers)
    assert costly == with_deliveries * 8


def test_every_truncation_costs_at_most_the_frames_cut_off(
    original: Original, record_property: Callable[[str, object], None]
) -> None:
    """Each length of each segment; no missing byte of a frame is silent."""
    lengths = 0
    for name, content in original.files.items():
        end = end_of_frames(original, name)
        for length in range(end + 1):
            found = reopen(original.files | {name: content[:length]})
            missing = [number for number in original.numbers if number not in set(found.numbers)]
            assert set(missing) <= original.affected(name, length, len(content)), (name, length)
            assert found.damage or length == end, (name, length)  # behind the frames are only zeros
            if name != list(original.files)[-1]:
                check(original, found, original.affected(name, length, len(content)), (name, length))
            lengths += 1
    record_property("covered", f"log: {lengths} truncated lengths")


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
def test_every_overwritten_sector_costs_at_most_the_frames_in_it(original: Original, filler: bytes) -> None:
    """Each 512-byte sector, filled with zeros or with ones."""
    for name, content in original.files.items():
        for begin in range(0, end_of_frames(original, name), SECTOR_BYTES):
            changed = content[:begin] + filler * SECTOR_BYTES + content[begin + SECTOR_BYTES :]
            found = reopen(original.files | {name: changed})
            affected = original.affected(name, begin, begin + SECTOR_BYTES)
            if not original.loses_confirmation(name, begin + SECTOR_BYTES):
                check(original, found, affected, (name, begin))
            else:
                assert set(original.numbers) - set(found.numbers) <= affected, (name, begin)
                assert found.damage, (name, begin)


def test_every_pair_of_swapped_sectors_costs_at_most_the_frames_in_them(original: Original) -> None:
    """Each pair of different 512-byte sectors of a segment."""
    pairs = 0
    for name, content in original.files.items():
        sectors = range(0, end_of_frames(original, name), SECTOR_BYTES)
        for first in sectors:
            for second in range(first + SECTOR_BYTES, sectors.stop, SECTOR_BYTES):
                one, other = content[first : first + SECTOR_BYTES], content[second : second + SECTOR_BYTES]
                changed = bytearray(content)
                changed[first : first + SECTOR_BYTES] = other
                changed[second : second + SECTOR_BYTES] = one
                found = reopen(original.files | {name: bytes(changed)})
                affected = original.affected(name, first, first + SECTOR_BYTES)
                affected |= original.affected(name, second, second + SECTOR_BYTES)
                missing = set(original.numbers) - set(found.numbers)
                assert missing <= affected, (name, first, second)
                assert found.numbers == sorted(found.numbers), (name, first, second)
                assert found.damage or one == other, (name, first, second)
                if not original.loses_confirmation(name, second + SECTOR_BYTES):
                    assert found.lost == len(missing), (name, first, second)
                pairs += 1
    assert pairs > 5


def test_a_missing_segment_is_counted_exactly_unless_it_is_the_last(original: Original) -> None:
    """A missing first segment is known from the next one; a missing last one leaves no trace."""
    first, last = original.files
    found = reopen({last: original.files[last]})
    check(original, found, original.affected(first, 0, 2**40), "first")
    assert found.lost
    found = reopen({first: original.files[first]})
    assert set(original.numbers) - set(found.numbers) == original.affected(last, 0, 2**40)


def test_a_duplicated_segment_costs_nothing(original: Original) -> None:
    """A copy under each other name that a segment could have is not taken for one, and nothing is read twice."""
    for name, content in original.files.items():
        for number in (*range(1, len(original.numbers) + 3), 10**6):
            copy = f"{number:020}.log"
            if copy not in original.files:
                found = reopen(original.files | {copy: content})
                assert found.numbers == original.numbers, (name, copy)
                assert found.lost == 0, (name, copy)
                assert found.damage, (name, copy)
