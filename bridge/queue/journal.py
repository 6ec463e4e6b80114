"""The journal: the durable delivery queue, on an append-only log.

Input: deliveries from the ingress. Output: groups of deliveries for the publisher, parked deliveries of blocked topics.

To read this code, open the files in this order: `append` here → `group_commit.py` (one writer thread) → `log.py`
(segments on disk) → `frame.py` (their bytes), with the file operations of `files.py`. Then `read` here →
`log_reader.py` → `segment.py` (the rule of reading, recovery after a restart). `parked.py` is a log for each blocked
topic. `interface.py` is what ingress and publisher use.

Invariants:
1. A delivery whose `append` is done is on disk: its frame is synced.
2. A delivery is removed only by `settle`, `settle_and_park` or `unpark`, which the publisher calls after Kafka has
   confirmed the record, or parks it. Damage on disk is the exception: it is counted, logged and quarantined.
3. `read` returns each delivery once, in the order of acknowledgement. After a crash, deliveries settled in the last
   moments before it (`CHECKPOINT_SECONDS`, or the last commit) are returned again.
4. The event loop never reads or scans the disk: depth, bytes and age come from running totals, and the last committed
   deliveries come from memory (`TAIL_BYTES` at most) for a reader that has caught up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from bridge.config.sections import JournalSettings, QueueSettings
from bridge.errors import BridgeError, DeliveryRejected
from bridge.event import Delivery
from bridge.queue.files import Files, lock_directory
from bridge.queue.frame import State
from bridge.queue.group_commit import DELIVERY_OVERHEAD_BYTES, GroupCommit
from bridge.queue.interface import Group, Parked
from bridge.queue.log import MIN_SEGMENT_BYTES, SEGMENT_BYTES, Log
from bridge.queue.parked import ParkedLogs
from bridge.queue.segment import Damage
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.units import format_bytes, free_space_fault

RETRY_SECONDS = 1.0
"""Pause between attempts to read or to park."""
READ_ATTEMPTS = 10
"""Attempts to read the disk before the blocks that it cannot read count as damaged."""
TAIL_BYTES = 16 * 1024 * 1024
"""Maximum bytes of committed deliveries in memory for the reader."""
QUARANTINE_NAME = "quarantine"

Result = TypeVar("Result")
_log = structlog.stdlib.get_logger()


class Journal:
    """Deliveries between ingress and publisher. Open one with `Journal.open`."""

    def __init__(self, settings: JournalSettings, metrics: Metrics, limits: QueueSettings, files: Files) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        segment_bytes = min(SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, settings.max_bytes // 8))
        quarantine = settings.dir / QUARANTINE_NAME
        self._main_log = Log(settings.dir, quarantine, self._on_damage, files=files, segment_bytes=segment_bytes)
        self._parked_logs = ParkedLogs(settings.dir, quarantine, self._on_damage, files, segment_bytes)
        state = self._main_log.state
        self._reader = self._main_log.reader(state.settled)
        self._last, self._total = self._main_log.last, self._main_log.total
        self._position, self._read_total = state.settled, state.settled_total
        self._unsettled: deque[Group] = deque()
        self._tail: deque[Group] = deque()
        self._tail_bytes = 0
        self._readable = asyncio.Event()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._commits = GroupCommit(self._main_log, self._parked_logs, metrics, self._on_committed)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: JournalSettings,
        metrics: Metrics,
        limits: QueueSettings | None = None,
        files: Files | None = None,
    ) -> AsyncIterator[Journal]:
        """Hold the journal of a directory; on leaving, commit what is pending and close.

        Raises JournalLocked, UnsupportedJournalVersion, or BridgeError when the directory cannot be used.
        """
        with lock_directory(settings.dir):
            try:
                journal = cls(settings, metrics, limits or QueueSettings(), files or Files())
            except OSError as error:
                raise BridgeError(
                    f"journal in {settings.dir}: {error}. Fix: repair the disk or its permissions, or set "
                    "BRIDGE_JOURNAL_DIR to another directory."
                ) from error
            try:
                async with asyncio.TaskGroup() as tasks:
                    commits = journal._commits
                    background = (
                        tasks.create_task(commits.commit(), name="journal commits"),
                        tasks.create_task(commits.write_checkpoints(), name="journal checkpoints"),
                        tasks.create_task(commits.keep_house(), name="journal housekeeping"),
                    )
                    try:
                        yield journal
                    finally:
                        await commits.finish()
                        for task in background:
                            task.cancel()
            finally:
                journal._close()

    def _close(self) -> None:
        self._commits.close()
        self._reading.shutdown()
        self._main_log.close()
        self._parked_logs.close()

    def _on_damage(self, damage: Damage) -> None:
        """Count and log damage; called from any thread."""
        self._metrics.record_journal_damage(damage.lost, damage.length, repeated=damage.repeated)
        _log.error(
            "journal_deliveries_lost" if damage.lost else "journal_corrupted",
            segment=str(damage.path),
            offset=damage.offset,
            bytes=damage.length,
            lost=damage.lost,
            first_lost=damage.first_lost if damage.lost else None,
            quarantined_as=damage.copy and str(damage.copy),
            detail=damage.detail,
        )

    # Called by the ingress.

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Enqueue a delivery; the future is done when it is on disk, and fails with DeliveryRejected otherwise.

        Raises DeliveryRejected at once when the journal has no capacity.
        """
        size = len(delivery.body) + DELIVERY_OVERHEAD_BYTES
        if (error := self._capacity_error(size)) is not None:
            raise error
        return self._commits.add(delivery)

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Return why a delivery of this size would be rejected now; None when it could be made durable."""
        if self._commits.failure is not None:
            return self._commits.rejection()
        return self._capacity_error(size + DELIVERY_OVERHEAD_BYTES)

    def _capacity_error(self, size: int) -> DeliveryRejected | None:
        commits, limits, count = self._commits, self._limits, self._commits.count
        if count >= limits.max_pending or commits.pending_bytes + size > limits.max_pending_bytes:
            return DeliveryRejected("queue_full", f"{count} deliveries wait for the disk")
        if (held := self.size_bytes) + size > self._settings.max_bytes:
            detail = f"the journal holds {format_bytes(held)} of {format_bytes(self._settings.max_bytes)}"
            return DeliveryRejected("journal_full", f"{detail} (BRIDGE_JOURNAL_MAX_BYTES)")
        if commits.free_bytes < self._settings.min_free_bytes:
            floor = self._settings.min_free_bytes
            return DeliveryRejected("disk_full", free_space_fault(self._settings.dir, commits.free_bytes, floor))
        return None

    @property
    def depth(self) -> int:
        """Number of deliveries on disk that are not on Kafka, the parked ones included; lost ones count until then.

        Needs no look at the groups: the publisher asks in the middle of its work.
        """
        return self._last - self._main_log.state.settled + sum(self.parked.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the deliveries in `depth`, and of those that wait for the disk."""
        parked = sum(topic.size_bytes for topic in self._parked_logs.topics())
        return self._total - self._main_log.state.settled_total + self._commits.pending_bytes + parked

    @property
    def oldest_pending_ms(self) -> int | None:
        """Receipt of the oldest delivery in `depth`, in ms since the epoch; None when nothing is pending."""
        received = [topic.oldest_ms for topic in self._parked_logs.topics() if topic.count]
        if self._unsettled or self._tail:
            received.append((self._unsettled or self._tail)[0].received_ms)
        elif self._position < self._last:
            received.append(self._main_log.oldest_ms)
        return min(filter(None, received), default=None)

    @property
    def has_pending_acks(self) -> bool:
        """Whether deliveries wait for the disk now."""
        return self._commits.pending_bytes > 0

    @property
    def parked(self) -> dict[str, int]:
        """Number of parked deliveries of each blocked topic."""
        return {topic.topic: count for topic in self._parked_logs.topics() if (count := topic.count)}

    def _on_committed(self, group: Group) -> None:
        """Keep a committed group in memory for a reader that has caught up."""
        caught_up = (self._tail[-1].last if self._tail else self._position) == self._last
        self._last, self._total = group.last, group.total
        if caught_up and self._tail_bytes + group.size <= TAIL_BYTES:
            self._tail.append(group)
            self._tail_bytes += group.size
        self._readable.set()

    # Called by the publisher.

    async def read(self) -> list[Group]:
        """Return the next groups in order, waiting until there is at least one."""
        while True:
            if self._tail:
                group = self._tail.popleft()
                self._tail_bytes -= group.size
                groups = [group]
                self._position = group.last
            elif self._position < self._last:
                self._reader.position = self._position
                groups = await self._read_disk(partial(self._reader.read, self._last))
                self._position = self._reader.position
            else:
                self._readable.clear()
                await self._readable.wait()
                continue
            self._unsettled += groups
            if groups:
                self._read_total = groups[-1].total
                return groups
            self._record_settled()  # everything that was left is lost

    async def _read_disk(self, read: Callable[..., Result]) -> Result:
        """Call `read` in the reader thread, again while the disk fails; then without what cannot be read."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._reading, partial(read, skip_unreadable=attempt >= READ_ATTEMPTS)
                )
            except OSError as error:
                _log.error("journal_read_failed", detail=str(error), attempt=attempt)
                await asyncio.sleep(RETRY_SECONDS)

    def settle(self, group: Group) -> None:
        """Settle everything up to the end of a group: Kafka has it. The next frame of the log records it."""
        while self._unsettled and self._unsettled[0].last <= group.last:
            self._unsettled.popleft()
        self._record_settled()

    def _record_settled(self) -> None:
        if self._unsettled:
            group = self._unsettled[0]
            state = State(group.first - 1, group.total - group.size, group.received_ms)
        elif self._position == self._last:
            state = State(self._last, self._total)
        else:
            oldest_ms = self._tail[0].received_ms if self._tail else self._main_log.oldest_ms
            state = State(self._position, self._read_total, oldest_ms)
        self._main_log.settle(state)
        self._commits.schedule_checkpoint()

    async def settle_and_park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Settle up to the end of `group` after some of its deliveries, named with their topics, are parked on disk.

        A crash in between repeats the parked deliveries.
        """
        await self.park(parked)
        self.settle(group)

    async def park(self, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Write deliveries to the logs of their topics. Retries while the disk fails."""
        topics: dict[str, list[Delivery]] = {}
        for topic, delivery in parked:
            topics.setdefault(topic, []).append(delivery)
        for topic, deliveries in topics.items():
            while not await self._commits.write_parked(partial(self._parked_logs.append, topic, deliveries)):  # noqa: ASYNC110
                await asyncio.sleep(RETRY_SECONDS)  # a disk signals nothing

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the oldest parked deliveries of a topic, at most `limit`. Retries while the disk fails."""
        log = self._parked_logs.topic(topic)
        return [] if log is None else await self._read_disk(partial(log.read, limit))

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Remove parked deliveries: Kafka has them. If the disk fails, a crash repeats them."""
        numbers: dict[str, set[int]] = {}
        for entry in parked:
            numbers.setdefault(entry.topic, set()).add(entry.number)
        for name, done in numbers.items():
            if (topic := self._parked_logs.topic(name)) is not None:
                topic.unpark(done)
        await self._commits.write_parked(partial(self._parked_logs.checkpoint, list(numbers)))
