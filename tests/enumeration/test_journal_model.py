"""The journal against a model of a few lists, in random order: append, read, settle, park, restart, crash, disk faults.

The model holds the numbers of the acknowledged deliveries that are not settled, in order, and those parked for each
topic. After each restart the journal must hold these, in order. It may also hold deliveries whose commit failed, which
were not acknowledged, and after a crash deliveries that were settled shortly before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bridge.config.sections import JournalSettings
from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue import journal as journal_module
from bridge.queue.interface import Group
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.journal import UnsyncedFiles

TOPICS = ("gumlet.a", "gumlet.b")
SMALLEST_BYTES = 1024 * 1024
EXAMPLES = 150
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a new directory in it is used
STEPS = 30


class FaultyFiles(UnsyncedFiles):
    """Files of a disk on which the next calls fail: syncs with EIO, new segments with ENOSPC.

    A copy of the directory that is made with `lock` held is one that a kill can leave: no change is half done in it.
    """

    def __init__(self) -> None:
        self.failing = 0
        self.full = False
        self.lock = threading.Lock()

    def create(self, path: Path) -> int:
        """Create, with the lock held."""
        with self.lock:
            return super().create(path)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write, with the lock held."""
        with self.lock:
            super().pwrite(descriptor, data, offset)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, with the lock held."""
        with self.lock:
            super().rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove, with the lock held."""
        with self.lock:
            super().unlink(path)

    def truncate(self, path: Path, size: int) -> None:
        """Cut, with the lock held."""
        with self.lock:
            super().truncate(path, size)

    def fsync(self, descriptor: int) -> None:
        """Fail while failures are left."""
        if self.failing > 0:
            self.failing -= 1
            super().fsync(descriptor)
            raise OSError(errno.EIO, "the disk fails")

    def fallocate(self, descriptor: int, size: int) -> None:
        """Fail while the disk is full."""
        if self.full:
            raise OSError(errno.ENOSPC, "the disk is full")
        super().fallocate(descriptor, size)


def number_of(delivery: Delivery) -> int:
    """Return the number in a delivery's body."""
    return int(delivery.body.partition(b":")[0])


class JournalMachine(RuleBasedStateMachine):
    """Random steps on a journal, and the model of it."""

    @initialize()
    def start(self) -> None:
        """Open an empty journal."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(journal_module, "RETRY_SECONDS", 0.001)
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY))
        self.files = FaultyFiles()
        self.runs = 0
        self.next_number = 1
        self.pending: list[int] = []
        self.parked: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.settled: set[int] = set()
        self.rejected: set[int] = set()
        self.groups: list[Group] = []
        self.open(self.root / "0")

    def open(self, directory: Path) -> None:
        """Open the journal of a directory."""
        self.directory = directory
        self.metrics = Metrics()
        self.stack = contextlib.AsyncExitStack()
        self.groups = []
        self.journal = self.runner.run(self._open())

    async def _open(self) -> Journal:
        configured = JournalSettings(dir=self.directory, min_free_bytes=0, max_bytes=SMALLEST_BYTES)
        return await self.stack.enter_async_context(Journal.open(configured, self.metrics, files=self.files))

    def teardown(self) -> None:
        """Close the journal, read it once more, and remove the files."""
        if hasattr(self, "runner"):
            self.restart()
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.patch.undo()
            shutil.rmtree(self.root)

    @rule(count=st.integers(1, 4), size=st.sampled_from([1, 700, 30_000]))
    def append(self, count: int, size: int) -> None:
        """Append a group; what the disk or the bound rejects is not acknowledged."""
        numbers = list(range(self.next_number, self.next_number + count))
        self.next_number += count
        acknowledged = self.runner.run(self._append(numbers, size))
        self.pending += acknowledged
        self.rejected |= set(numbers) - set(acknowledged)

    async def _append(self, numbers: list[int], size: int) -> list[int]:
        waiting = []
        for number in numbers:
            with contextlib.suppress(DeliveryRejected):
                body = f"{number}:".encode().ljust(size, b".")
                waiting.append((number, self.journal.append(Delivery(1_700_000_000_000 + number, "s", body))))
        results = await asyncio.gather(*(future for _, future in waiting), return_exceptions=True)
        assert all(result is None or isinstance(result, DeliveryRejected) for result in results)
        return [number for (number, _), result in zip(waiting, results, strict=True) if result is None]

    def unread(self) -> int:
        """Return how many pending deliveries have not been read."""
        return len(self.pending) - sum(len(group.deliveries) for group in self.groups)

    @precondition(lambda self: self.unread() > 0)
    @rule()
    def read(self) -> None:
        """Read the next groups: the next pending deliveries, in order."""
        already = sum(len(group.deliveries) for group in self.groups)
        groups = self.runner.run(asyncio.wait_for(self.journal.read(), 10))
        self.groups += groups
        found = [number_of(delivery) for group in groups for delivery in group.deliveries]
        assert found == self.pending[already : already + len(found)]

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Settle some of the groups that were read."""
        count = data.draw(st.integers(1, len(self.groups)))
        self._forget(count)
        self.runner.run(self._settle(self.groups[count - 1]))
        del self.groups[:count]

    async def _settle(self, group: Group) -> None:
        self.journal.settle(group)

    def _forget(self, count: int) -> None:
        numbers = [number_of(delivery) for group in self.groups[:count] for delivery in group.deliveries]
        assert numbers == self.pending[: len(numbers)]
        self.settled |= set(numbers)
        del self.pending[: len(numbers)]

    @precondition(lambda self: self.groups and not self.files.full)
    @rule(topic=st.sampled_from(TOPICS), every=st.integers(1, 2))
    def park(self, topic: str, every: int) -> None:
        """Settle the oldest group, but keep all or every second delivery for a blocked topic."""
        group = self.groups.pop(0)
        kept = group.deliveries[::every]
        self.groups.insert(0, group)
        self._forget(1)
        self.runner.run(self.journal.settle_and_park(group, [(topic, delivery) for delivery in kept]))
        self.groups.pop(0)
        self.parked[topic] += [number_of(delivery) for delivery in kept]

    @rule(topic=st.sampled_from(TOPICS), limit=st.integers(1, 5), done=st.integers(1, 5))
    def unpark(self, topic: str, limit: int, done: int) -> None:
        """Read parked deliveries, oldest first, and remove the first of them."""
        found = self.runner.run(self.journal.read_parked(topic, limit))
        assert [number_of(each.delivery) for each in found] == self.parked[topic][:limit]
        self.runner.run(self.journal.unpark(found[:done]))
        self.settled |= set(self.parked[topic][: len(found[:done])])
        del self.parked[topic][: len(found[:done])]

    @rule(count=st.integers(1, 3))
    def fail_syncs(self, count: int) -> None:
        """Let the next syncs fail."""
        self.files.failing = count

    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Let the disk be full, or free again."""
        self.files.full = full

    @rule()
    def restart(self) -> None:
        """Close and open: exactly the pending and the parked deliveries are there."""
        self._heal()
        self.runner.run(self.stack.aclose())
        self.open(self.directory)
        self._check(repeats=False)

    @rule()
    def crash(self) -> None:
        """Open a copy of the files as a kill leaves them: settled deliveries may come again."""
        self._heal()
        self.runs += 1
        copy = self.root / str(self.runs)
        with self.files.lock:  # the writer thread may be recording what was settled
            shutil.copytree(self.directory, copy)
        self.runner.run(self.stack.aclose())
        self.open(copy)
        self._check(repeats=True)

    def _heal(self) -> None:
        self.files.failing = 0
        self.files.full = False

    def _check(self, *, repeats: bool) -> None:
        """Compare everything in the journal with the model, and take over what a crash repeats."""
        parked = dict(self.journal.parked)
        depth = self.journal.depth - sum(parked.values())
        found: list[int] = []
        groups: list[Group] = []
        while len(found) < depth:
            groups += self.runner.run(asyncio.wait_for(self.journal.read(), 10))
            found = [number_of(delivery) for group in groups for delivery in group.deliveries]
        assert found == sorted(set(found))
        assert [number for number in found if number in set(self.pending)] == self.pending
        extra = set(found) - set(self.pending)
        assert extra <= self.rejected | (
            self.settled | {number for numbers in self.parked.values() for number in numbers} if repeats else set()
        )
        self.pending = found
        for topic in TOPICS:
            numbers = [number_of(each.delivery) for each in self.runner.run(self.journal.read_parked(topic, 10**6))]
            assert parked.get(topic, 0) == len(numbers)
            first = len(numbers) - len(self.parked[topic])
            assert numbers[first:] == self.parked[topic]
            assert not first or repeats
            assert set(numbers[:first]) <= self.settled | set(self.pending)
            self.parked[topic] = numbers
        assert self.metrics.registry.get_sample_value("bridge_journal_lost_deliveries_total") == 0
        self.groups = groups


def test_the_journal_holds_what_its_model_holds(record_property: Callable[[str, object], None]) -> None:
    """Random sequences of steps; the shortest one that fails is printed."""
    steps = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    run_state_machine_as_test(JournalMachine, settings=steps)
    record_property("covered", f"journal: {EXAMPLES} random sequences of up to {STEPS} steps against a model")
