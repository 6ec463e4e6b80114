"""Every state that a power cut can leave of the log is opened: nothing acknowledged and unsettled is missing.

Scripts append groups of several sizes, rotate, settle, park in a second log, restart, and meet failing calls, while
every file operation is recorded. Each state that the disk can hold after each operation is then opened by a new log:

* the deliveries that were acknowledged and not yet settled are read, in order, each once;
* nothing is read that was never appended; nothing counts as lost; nothing raises;
* the next append works, and is read after all others.

Some of the states are continued by a second script, whose states are enumerated in the same way.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from bridge.event import Delivery
from bridge.queue import log as log_module
from bridge.queue.files import Files
from bridge.queue.frame import State as Settled
from bridge.queue.log import Log
from bridge.queue.log_reader import LogReader
from bridge.queue.segment import Damage
from tests.enumeration.memory_files import ROOT, MemoryFiles
from tests.enumeration.power_cut import Disk, Operation, RecordingFiles, State

SEGMENT_BYTES = 8 * 1024
MAIN, PARKED = "log", "parked"
EXPECTED_STATES = 20_000
SEED = 20_161_231


class Mark(NamedTuple):
    """What holds from an operation on: deliveries acknowledged, or settled, in one of the two logs."""

    log: str
    acknowledged: tuple[int, ...] = ()
    settled: tuple[int, ...] = ()


class Script:
    """Uses a main and a parked log as the journal does, records the operations, and what must hold after each."""

    def __init__(self, initial: State, fail: frozenset[str] = frozenset(), first_id: int = 1) -> None:
        self.initial = initial
        self.files = RecordingFiles(initial, fail)
        self.marks: list[tuple[int, Mark]] = []
        self.attempted: list[int] = []
        self.next_id = first_id
        self.rejected = 0
        self.logs: dict[str, Log] = {}
        self.open()

    def open(self) -> None:
        """Start, or start again, as a new process does."""
        for name in (MAIN, PARKED):
            if name in self.logs:
                self.logs[name].close()
            self.logs[name] = open_log(name, self.files, lambda _: None)

    def append(self, size: int, count: int = 1, log: str = MAIN, ids: list[int] | None = None) -> list[int]:
        """Append a group; an append that fails is rejected."""
        if ids is None:
            ids = list(range(self.next_id, self.next_id + count))
            self.next_id += count
        self.attempted += [number for number in ids if log == MAIN]
        try:
            self.logs[log].append([delivery(number, size) for number in ids])
        except OSError:
            self.rejected += 1
            return []
        self._mark(Mark(log, acknowledged=tuple(ids)))
        return ids

    def settle(self, ids: list[int], *, log: str = MAIN, checkpoint: bool = True) -> None:
        """Settle everything up to the last appended delivery; `ids` are those that this settles."""
        target = self.logs[log]
        target.settle(Settled(target.last, target.total, 0))
        self._mark(Mark(log, settled=tuple(ids)))
        if checkpoint:
            with contextlib.suppress(OSError):
                target.checkpoint()

    def park(self, ids: list[int]) -> None:
        """Keep deliveries in the parked log, then settle everything in the main log."""
        if self.append(100, log=PARKED, ids=ids):
            self.settle(ids)

    def _mark(self, mark: Mark) -> None:
        self.marks.append((len(self.files.operations), mark))


def delivery(number: int, size: int) -> Delivery:
    """Return a delivery whose body names it, of about this size."""
    return Delivery(1_700_000_000_000 + number, "s", f"{number}:".encode().ljust(size, b"\xff"))


def open_log(name: str, files: Files, report: Callable[[Damage], None]) -> Log:
    """Open one of the two logs."""
    return Log(ROOT / name, ROOT / "quarantine", report, files=files, segment_bytes=SEGMENT_BYTES, prefix=f"{name}-")


def steady(script: Script) -> None:
    """Run appends of several sizes, rotations, settling with and without a frame, deletion, a restart."""
    pending: list[int] = []
    for size, count in ((60, 1), (60, 3), (1500, 1), (1200, 2), (3000, 1), (60, 1)):
        pending += script.append(size, count)
    script.settle(pending, checkpoint=False)
    pending = script.append(700, 2)
    script.settle(pending)
    script.settle([])
    pending = script.append(2500) + script.append(2500) + script.append(60)
    script.open()
    pending += script.append(60) + script.append(1000, 2)
    script.settle(pending)
    script.append(60)


def parking(script: Script) -> None:
    """Move deliveries of a blocked topic to the parked log, and settle them there."""
    script.append(60, 2)
    first = script.append(60, 2)
    script.settle([], log=PARKED)
    script.park([*range(1, 5)])
    assert first
    more = script.append(900, 2)
    script.park(more)
    script.settle([1, 2, 3, 4, *more], log=PARKED)
    script.append(60)
    script.open()
    script.append(60)


def failing(script: Script) -> None:
    """Append while calls fail, at a rotation too; later appends succeed."""
    pending: list[int] = []
    for index in range(7):
        pending += script.append((60, 900, 2600)[index % 3], 1 + index % 2)
    script.settle(pending)
    for index in range(5):
        script.append((2600, 60)[index % 2])
    script.open()
    script.append(60)


FAILURES = [
    *(frozenset({f"fsync {number}"}) for number in range(2, 12)),
    *(frozenset({f"pwrite {number}"}) for number in (2, 3, 6, 9)),
    *(frozenset({f"{call} {number}"}) for call in ("rename", "fallocate", "create") for number in (3, 4)),
    *(frozenset({f"fsync_directory {number}"}) for number in range(3, 9)),
    frozenset({"fsync 3", "fsync 5", "rename 4"}),
    frozenset({"unlink 1", "fsync 9"}),
]


class Counter:
    """Opens states, each once, and counts them."""

    def __init__(self) -> None:
        self.opened = 0
        self._seen: set[int] = set()
        self._checked: set[int] = set()

    def enumerate(
        self, script: Script, owed_before: dict[str, list[int]], random_: random.Random
    ) -> Iterator[tuple[State, dict[str, list[int]]]]:
        """Open every state of a script; yield it with what is owed in it."""
        disk = Disk(script.initial)
        marks = list(script.marks)
        owed = {name: list(owed_before.get(name, [])) for name in (MAIN, PARKED)}
        allowed = set(script.attempted)
        for index in range(len(script.files.operations) + 1):
            if index:
                disk.apply(script.files.operations[index - 1])
            while marks and marks[0][0] <= index:
                _, mark = marks.pop(0)
                owed[mark.log] += mark.acknowledged
                owed[mark.log] = [number for number in owed[mark.log] if number not in mark.settled]
            for state in disk.states(random_):
                key = hash((tuple(sorted(state.items())), tuple(owed[MAIN]), tuple(owed[PARKED])))
                if key not in self._seen:
                    self._seen.add(key)
                    self.check(state, owed, allowed | {*earlier_ids(script.initial)})
                    yield state, {name: list(numbers) for name, numbers in owed.items()}

    def check(self, state: State, owed: dict[str, list[int]], allowed: set[int]) -> None:
        """Open one state, read it, append, and read it again; a log with the same files as before is not repeated."""
        self.opened += 1
        for name in (MAIN, PARKED):
            files = {path: content for path, content in state.items() if path.startswith((f"{name}/", "quarantine/"))}
            key = hash((name, tuple(sorted(files.items())), tuple(owed[name])))
            if key in self._checked:
                continue
            self._checked.add(key)
            check_log(MemoryFiles(files), name, owed[name], allowed)


def earlier_ids(state: State) -> Iterator[int]:
    """Yield nothing for an empty disk, and otherwise every number that earlier scripts may have appended."""
    if state:
        yield from range(1, 1000)


def check_log(files: Files, name: str, owed: list[int], allowed: set[int]) -> None:
    """Open a log; nothing that it owes is missing, nothing is foreign, and appends work."""
    damage: list[Damage] = []
    log = open_log(name, files, damage.append)
    found = read_ids(log, reader := log.reader(log.state.settled))
    assert [number for number in found if number in set(owed)] == owed, (found, owed, damage)
    assert len(set(found)) == len(found), found
    assert set(found) <= allowed, found
    assert not sum(each.lost for each in damage), damage
    log.append([delivery(5000, 60)])
    assert read_ids(log, reader) == [5000]
    log.close()
    again = open_log(name, files, damage.append)
    assert read_ids(again, again.reader(again.state.settled)) == [*found, 5000]
    assert not sum(each.lost for each in damage), damage
    again.close()


def read_ids(log: Log, reader: LogReader) -> list[int]:
    """Return the numbers of all deliveries that the reader has not read, in the order of reading."""
    numbers: list[int] = []
    while groups := reader.read(log.last):
        numbers += [int(each.body.partition(b":")[0]) for group in groups for each in group.deliveries]
    return numbers


def test_every_state_after_a_power_cut_gives_back_what_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Scripts without and with failing calls, and second scripts on top of states that the first ones left."""
    monkeypatch.setattr(log_module, "MIN_SEGMENT_BYTES", SEGMENT_BYTES)
    random_ = random.Random(SEED)
    counter = Counter()
    scripts = [(steady, frozenset[str]()), (parking, frozenset[str]()), *((failing, each) for each in FAILURES)]
    rejected = 0
    continued = 0
    for steps, fail in scripts:
        script = Script({}, fail)
        steps(script)
        rejected += script.rejected
        for state, owed in counter.enumerate(script, {}, random_):
            if random_.random() < 0.005:
                continued += 1
                continue_from(counter, state, owed, random_)
    record_property(
        "covered",
        f"log: {counter.opened} states after a power cut, of {len(scripts)} scripts and {continued} continued states; "
        f"{rejected} appends rejected by failing calls",
    )
    assert rejected > len(FAILURES) // 2
    assert continued > 20
    assert counter.opened >= EXPECTED_STATES


def continue_from(counter: Counter, state: State, owed: dict[str, list[int]], random_: random.Random) -> None:
    """Run a second script on a state that a power cut left, and open every state of it."""
    script = Script(state, first_id=600)
    new = script.append(60, 2) + script.append(2500)
    script.settle([*owed[MAIN], *new])
    script.append(900)
    for _ in counter.enumerate(script, owed, random_):
        pass


def test_the_enumeration_finds_a_missing_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that acknowledges before the sync loses deliveries in some of the states: the check can fail."""
    monkeypatch.setattr(log_module, "MIN_SEGMENT_BYTES", SEGMENT_BYTES)
    script = Script({})
    steady(script)
    forgotten = [each if each.kind != "fsync" else Operation("mkdir") for each in script.files.operations]
    script.files.operations[:] = forgotten
    with pytest.raises(AssertionError):
        for _ in Counter().enumerate(script, {}, random.Random(SEED)):
            pass
