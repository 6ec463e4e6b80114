"""Salvage: what is whole in a damaged journal file comes out, once, in order; nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bridge.event import Delivery
from bridge.operations.journal_salvage import salvage
from bridge.queue.interface import Group
from bridge.queue.journal_file import JournalFile, pack

PAGE = 4096


def journal(directory: Path, sizes: list[int]) -> tuple[Path, list[list[Delivery]]]:
    """Write a journal of groups whose bodies have these sizes, and return a copy as a crash would leave it."""
    written = JournalFile(directory / "journal.sqlite")
    groups: list[list[Delivery]] = []
    total = 0
    for number, size in enumerate(sizes):
        deliveries = [Delivery(number, "default", bytes([65 + number % 26]) * size), Delivery(number, "b", b"{}")]
        packed = pack(deliveries)
        total += len(packed)
        written.append(Group(2 * number + 1, 2 * number + 2, number, len(packed), total, deliveries), packed, 0)
        groups.append(deliveries)
    written.park(0, [("some.topic", Delivery(7, "default", b"parked"))])
    damaged = directory / "copy.sqlite"
    for suffix in ("", "-wal"):
        source = directory / f"journal.sqlite{suffix}"
        if source.exists():
            shutil.copy(source, f"{damaged}{suffix}")
    written.close()
    return damaged, groups


@pytest.mark.parametrize("sizes", [[10], [10] * 300, [3000, 4200, 5000, 50_000, 0, 300_000], [1000] * 200])
def test_a_whole_file_comes_out_whole(tmp_path: Path, sizes: list[int]) -> None:
    """From a file and its log, rows small and large: every delivery once, in order, the parked one too."""
    path, groups = journal(tmp_path, sizes)
    found = salvage(path)
    assert found.flowing == [each for group in groups for each in group]
    assert found.parked == [("some.topic", Delivery(7, "default", b"parked"))]
    assert found.unreadable == 0


def test_a_checkpointed_file_without_its_first_page(tmp_path: Path) -> None:
    """Header and schema are not needed: what stands on whole pages comes out."""
    _, groups = journal(tmp_path, [1000] * 100)
    path = tmp_path / "journal.sqlite"  # closing it has brought the log into it
    data = path.read_bytes()
    path.write_bytes(bytes(PAGE) + data[PAGE:])
    assert salvage(path).flowing == [each for group in groups for each in group]


def test_a_flipped_bit_takes_its_group_alone(tmp_path: Path) -> None:
    """One damaged body is named as unreadable; all others come out."""
    _, groups = journal(tmp_path, [1000] * 50)
    path = tmp_path / "journal.sqlite"
    data = bytearray(path.read_bytes())
    data[data.index(b"K" * 1000) + 500] ^= 1  # the eleventh group, and the thirty-seventh
    path.write_bytes(data)
    found = salvage(path)
    assert found.unreadable == 1
    expected = [each for group in groups for each in group]
    assert found.flowing == [each for number, each in enumerate(expected) if number not in (20, 21)]


@pytest.mark.parametrize("content", [b"", b"garbage" * 10_000, bytes(100_000), b"SQLite format 3\0" + b"\xff" * 50_000])
def test_garbage_gives_nothing(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file, salvage ends without an error and invents nothing."""
    path = tmp_path / "garbage"
    path.write_bytes(content)
    assert salvage(path).deliveries == []


def test_what_kafka_has_stays_away(tmp_path: Path) -> None:
    """Rows that the file itself says are settled do not come out of its free pages again."""
    file = JournalFile(tmp_path / "journal.sqlite")
    for number in range(1, 21):
        deliveries = [Delivery(number, "default", b"x" * 2000)]
        packed = pack(deliveries)
        file.append(Group(number, number, number, len(packed), number * len(packed), deliveries), packed, number // 2)
    file.close()
    assert [each.received_ms for each in salvage(tmp_path / "journal.sqlite").flowing] == list(range(11, 21))
