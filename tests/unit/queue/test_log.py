"""The append-only log: durability, order, rotation, deletion, and failing calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.event import Delivery
from bridge.queue.frame import State
from bridge.queue.interface import Group
from tests.support.journal import flip
from tests.unit.queue.logs import FailingFiles, Opened


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
