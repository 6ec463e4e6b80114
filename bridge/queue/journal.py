"""The journal: what makes a 200 true.

Rule 1: a delivery whose `append` is done is on disk: SQLite has synced its write-ahead log.
Rule 2: a delivery leaves only by `settle` or `unpark`, which the publisher calls once Kafka has confirmed it.
        (Or with its whole file, which is set aside when the disk has damaged it, told and counted, never deleted.)
Rule 3: `read` gives each delivery once, in the order of acknowledgement. A crash gives again what was settled in
        the last moments before it (`TRIM_SECONDS`).
Rule 4: one thread writes. All that arrives while it syncs goes into its next commit, as one row.

What was just committed is handed from memory to a reader that has caught up (`TAIL_BYTES` at most), so in steady
state nothing is read back. Depth, bytes and age are known at any time from running totals, never by a scan.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

from bridge.config.sections import JournalSettings, QueueSettings
from bridge.errors import BridgeError, DeliveryRejected, JournalCorrupted
from bridge.event import Delivery
from bridge.queue.interface import Group, Parked
from bridge.queue.journal_disk import JournalStorage
from bridge.queue.journal_file import FILE_NAME, JournalFile, lock, pack
from bridge.telemetry.metrics import Metrics

TRIM_SECONDS = 0.1
"""How long settled rows may stay before they are removed without an append to ride on."""
TAIL_BYTES = 16 * 1024 * 1024
"""Most bytes of committed deliveries kept in memory for the reader."""
GROUP_BYTES = 1024 * 1024
"""Bytes after which a group is closed; what waits beyond it makes the next."""
OVERHEAD_BYTES = 64
"""Counted for each delivery beside its body, so that empty bodies cannot fill memory or disk unseen."""


class Journal:
    """Deliveries on their way from the ingress to the publisher. Make one with `Journal.open`."""

    def __init__(self, settings: JournalSettings, metrics: Metrics, limits: QueueSettings) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._disk = JournalStorage(
            settings.dir / FILE_NAME, metrics, reopened=self._look_at_file, replaced=self._forget_file
        )
        # Sequence numbers and running totals of bytes: what is on disk, and up to where it was settled, removed, read.
        self._last = self._total = 0
        self._settled = self._settled_total = 0
        self._trimmed = self._read_upto = 0
        self._waiting: deque[tuple[Delivery, asyncio.Future[None]]] = deque()
        self._waiting_bytes = 0
        self._tail: deque[Group] = deque()
        self._tail_bytes = 0
        self._parked: dict[str, tuple[int, int]] = {}
        self._work = asyncio.Event()
        self._readable = asyncio.Event()
        self._trim_due: asyncio.TimerHandle | None = None
        self._trim_now = False
        self._closing = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: JournalSettings, metrics: Metrics, limits: QueueSettings | None = None
    ) -> AsyncIterator[Journal]:
        """Hold the journal of a directory; on leaving, commit what waits and close.

        Raises JournalLocked, UnsupportedJournalVersion, or BridgeError when the directory cannot be used. A damaged file is
        set aside, and the journal begins anew.
        """
        with lock(settings.dir):
            journal = cls(settings, metrics, limits or QueueSettings())
            try:
                extent = journal._disk.file().extent
            except (sqlite3.Error, OSError) as error:
                raise BridgeError(
                    f"journal in {settings.dir}: {error}. Fix: mend the disk or the permissions, or set "
                    "BRIDGE_JOURNAL_DIR to another directory."
                ) from error
            journal._settled_total = extent.settled_total
            journal._settled = journal._trimmed = journal._read_upto = extent.settled
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(journal._commit_until_closed(), name="journal")
                    try:
                        yield journal
                    finally:
                        journal._closing = True
                        journal._work.set()
            finally:
                if journal._trim_due is not None:
                    journal._trim_due.cancel()
                journal._disk.close()

    def _look_at_file(self) -> None:
        """Take over what an opened file says it holds."""
        self._parked = (file := self._disk.file()).parked_topics()
        if file.extent.last > self._last:
            # At start, the whole of it. Later, a commit that failed and reached the disk all the same: its senders
            # were told 503 and will send again, so publishing it is a repeat; a row written over it would not fit.
            self._last, self._total = file.extent.last, file.extent.total
            self._readable.set()

    def _forget_file(self) -> None:
        """Count out what went with a damaged file; what is still in memory flows on."""
        self._parked = {}
        unread = self._tail[0] if self._tail else None
        self._read_upto = max(self._read_upto, unread.first - 1 if unread else self._last)
        self._settled = max(self._settled, self._read_upto)
        self._settled_total = unread.total - unread.size if unread else self._total

    # The ingress's side.

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Take a delivery; the future is done when it is on disk, and fails with Refused when it could not be.

        Raises Refused at once when too much waits, the journal is full, or the disk nearly so or gone.
        """
        size = len(delivery.body) + OVERHEAD_BYTES
        if (refusal := self._out_of_bounds(size)) is not None:
            raise refusal
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, future))
        self._waiting_bytes += size
        self._work.set()
        return future

    def _out_of_bounds(self, size: int) -> DeliveryRejected | None:
        limits = self._settings
        if (
            len(self._waiting) >= self._limits.max_pending
            or self._waiting_bytes + size > self._limits.max_pending_bytes
        ):
            return DeliveryRejected("queue_full", f"{len(self._waiting)} deliveries wait for the disk")
        if self.size_bytes + size > limits.max_bytes:
            return DeliveryRejected("journal_full", f"the journal holds {self.size_bytes} bytes of {limits.max_bytes}")
        try:
            free = self._disk.free_bytes
        except OSError as error:
            return DeliveryRejected("journal_unavailable", str(error))
        if free < limits.min_free_bytes:
            return DeliveryRejected("disk_full", f"the disk has {free} bytes free, under {limits.min_free_bytes}")
        return None

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Tell why a delivery of so many bytes would be refused now; None when it could be made durable."""
        if self._disk.fault is not None:
            return DeliveryRejected("journal_unavailable", self._disk.fault)
        return self._out_of_bounds(size + OVERHEAD_BYTES)

    # What is known at any time.
    @property
    def depth(self) -> int:
        """Deliveries that are on disk and not yet on Kafka, the parked ones included."""
        return self._last - self._settled + sum(count for count, _ in self._parked.values())

    @property
    def size_bytes(self) -> int:
        """Bytes that the deliveries in `depth` and those waiting for the disk take."""
        parked = sum(size for _, size in self._parked.values()) if self._parked else 0
        return self._total - self._settled_total + self._waiting_bytes + parked

    @property
    def oldest_pending_ms(self) -> int | None:
        """When the oldest delivery that flows was received, in ms since the epoch; None when all are through."""
        if self._settled < self._last:
            with contextlib.suppress(sqlite3.Error, OSError, JournalCorrupted):
                return self._disk.file().oldest_pending_ms(self._settled)
        return None

    @property
    def acknowledging(self) -> bool:
        """Whether deliveries wait for the disk now."""
        return self._waiting_bytes > 0

    @property
    def parked(self) -> dict[str, int]:
        """How many deliveries wait for each topic that refuses."""
        return {topic: count for topic, (count, _) in self._parked.items()}

    @property
    def free_bytes(self) -> int:
        """Bytes free on the journal's disk, looked up at most once a second."""
        return self._disk.free_bytes

    # The publisher's side.

    async def read(self) -> list[Group]:
        """Return the next groups in order, waiting until there are any."""
        while True:
            groups: list[Group] = []
            if self._tail and self._tail[0].first == self._read_upto + 1:
                group = self._tail.popleft()
                self._tail_bytes -= group.size
                groups = [group]
            elif self._read_upto < self._last:
                found = await self._disk.read(self._read_upto)
                if found == []:  # what was there went with a file that was set aside
                    self._forget_file()
                groups = found or []
            else:
                self._readable.clear()
                await self._readable.wait()
            if groups:
                self._read_upto = groups[-1].last
                return groups

    def settle(self, group: Group) -> None:
        """Forget all deliveries up to the end of `group`: Kafka has them, or they are parked."""
        if group.last <= self._settled:
            return
        self._settled, self._settled_total = group.last, group.total
        if self._trim_due is None:
            self._trim_due = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trim_due = None
        self._trim_now = self._settled > self._trimmed
        self._work.set()

    async def park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Settle up to the end of `group` while some of its deliveries, named with their topics, stay on disk.

        Tried without end while the disk fails: when this returns, they are safe.
        """
        await self._disk.write_without_end(lambda file: file.park(group.last, parked))
        self._trimmed = max(self._trimmed, group.last)
        self.settle(group)
        self._parked = self._disk.file().parked_topics()

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:
        """Return the deliveries that have waited longest for a topic; none when they went with a damaged file."""
        return await self._disk.parked(topic, limit)

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Forget parked deliveries: Kafka has them."""
        await self._disk.write_without_end(lambda file: file.unpark([each.number for each in parked]))
        self._parked = self._disk.file().parked_topics()

    # Committing.

    async def _commit_until_closed(self) -> None:
        surplus = False
        while True:
            if not surplus:
                await self._work.wait()
            self._work.clear()
            # All that becomes ready in this turn of the loop joins the group: one sync for a burst.
            await asyncio.sleep(0)
            while self._waiting:
                await self._commit_group()
            if self._trim_now or self._closing:
                self._trim_now = False
                upto = self._settled
                if await self._disk.write(lambda file, upto=upto: file.trim(upto)) is None:  # type: ignore[misc]
                    self._trimmed = upto
                surplus = True
            if self._closing and not self._waiting:
                return
            if surplus:
                surplus = await self._disk.give_back()

    async def _commit_group(self) -> None:
        deliveries: list[Delivery] = []
        futures: list[asyncio.Future[None]] = []
        taken = 0
        while self._waiting and taken < GROUP_BYTES:
            delivery, future = self._waiting.popleft()
            deliveries.append(delivery)
            futures.append(future)
            taken += len(delivery.body) + OVERHEAD_BYTES
        packed = pack(deliveries)
        trimmed = self._settled
        began = time.perf_counter()
        group: Group | None = None

        def append(file: JournalFile) -> None:
            nonlocal group
            last = self._last + len(deliveries)
            total = self._total + len(packed)
            group = Group(self._last + 1, last, deliveries[0].received_ms, len(packed), total, deliveries)
            file.append(group, packed, trimmed)

        error = await self._disk.write(append)
        self._waiting_bytes -= taken
        if error is None and group is not None:
            self._metrics.record_commit(deliveries, time.perf_counter() - began)
            self._trimmed = max(self._trimmed, trimmed)
            self._committed(group)
        for future in [each for each in futures if not each.done()]:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(DeliveryRejected("journal_unavailable", str(error)))

    def _committed(self, group: Group) -> None:
        caught_up = (self._tail[-1].last if self._tail else self._read_upto) == self._last
        self._last, self._total = group.last, group.total
        if caught_up and self._tail_bytes + group.size <= TAIL_BYTES:
            self._tail.append(group)
            self._tail_bytes += group.size
        self._readable.set()
