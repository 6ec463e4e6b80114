"""The journal notices what it should hold and does not, and never cries without cause."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from bridge.event import Delivery
from bridge.queue.interface import Group
from bridge.queue.journal_file import FILE_NAME, JournalFile, pack
from bridge.queue.journal_mark import SUFFIX


class Writer:
    """Writes groups of deliveries to a journal file as the journal does, and knows what is in it."""

    def __init__(self, path: Path) -> None:
        self.file = JournalFile(path)
        self.last, self.total = self.file.extent.last, self.file.extent.total
        self.settled = self.file.extent.settled

    def append(self, count: int) -> None:
        """Commit a group."""
        deliveries = [Delivery(1, "default", b"{}")] * count
        packed = pack(deliveries)
        self.total += len(packed)
        group = Group(self.last + 1, self.last + count, 1, len(packed), self.total, deliveries)
        self.file.append(group, packed, self.settled)
        self.last = group.last


def crashed(path: Path, into: Path, suffixes: tuple[str, ...] = ("", "-wal", SUFFIX)) -> JournalFile:
    """Open what a crash in this moment would leave of a journal, or a part of it."""
    into.mkdir()
    for suffix in suffixes:
        if (part := path.with_name(path.name + suffix)).exists():
            shutil.copy(part, into / part.name)
    return JournalFile(into / path.name)


def test_a_lost_log_is_noticed(tmp_path: Path) -> None:
    """A journal without its write-ahead log says how many acknowledged deliveries went with it, once."""
    path = tmp_path / FILE_NAME
    writer = Writer(path)
    writer.append(2)
    writer.file._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.append(3)
    writer.append(4)
    short = crashed(path, tmp_path / "crash", ("", SUFFIX))
    assert (short.extent.last, short.missing) == (2, 7)
    short.close()
    again = JournalFile(short.path)
    assert again.missing == 0
    again.close()
    writer.file.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_crash_alone_is_no_loss(tmp_path: Path, seed: int) -> None:
    """Whatever is appended, settled, trimmed, parked, closed or killed: nothing is missing that was not lost."""
    chance = random.Random(seed)
    path = tmp_path / FILE_NAME
    writer = Writer(path)
    for step in range(30):
        kind = chance.randrange(6)
        if kind <= 1:
            writer.append(chance.randrange(1, 5))
        elif kind == 2:
            writer.settled = chance.randint(writer.settled, writer.last)
        elif kind == 3:
            writer.file.trim(writer.settled)
        elif kind == 4:
            writer.settled = writer.last
            writer.file.park(writer.settled, [("t", Delivery(1, "default", b"{}"))])
        else:
            writer.file.close()
            writer = Writer(path)
        left = crashed(path, tmp_path / f"crash-{step}")
        assert (writer.file.missing, left.missing) == (0, 0), step
        left.close()
    writer.file.close()
