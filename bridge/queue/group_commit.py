"""Group commit: deliveries that wait for the disk become frames of the log, written by one thread.

Input: deliveries, each with a future. Output: the future is done when the delivery is on disk, or has failed with
DeliveryRejected. Deliveries that arrive while a frame is written and synced are in the next frame. The event loop
wakes the writer thread once for each commit, and the thread wakes the loop once with the result.

Invariants:
1. Only the writer thread changes the log.
2. An OSError is a result: the deliveries of that commit are rejected. `failure` is set from a failed call of the main
   log until a frame of it is written and synced again; meanwhile `check_capacity` rejects.
3. Any other exception in a commit ends the journal: all waiting and all later deliveries are rejected, no further job
   runs in the writer thread, and the exception ends the task group of `run`, and so the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

import structlog

from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue.interface import Group
from bridge.queue.log import Log
from bridge.queue.parked import ParkedLogs
from bridge.telemetry.metrics import Metrics

CHECKPOINT_SECONDS = 0.1
"""Time without a commit after which a frame without deliveries records what was settled."""
HOUSEKEEPING_SECONDS = 1.0
"""Interval of looking at the free disk, and of trying a failed disk again."""
GROUP_BYTES = 1024 * 1024
"""Size at which a group commit is complete; further deliveries form the next one."""
DELIVERY_OVERHEAD_BYTES = 64
"""Counted for each delivery in addition to its body, so that empty bodies are bounded too."""

WRITE_FAILED_HINT = "check the disk and who removes files there; `gumlet-bridge journal verify` names what is lost"
_log = structlog.stdlib.get_logger()


class WriterThread:
    """Runs jobs in order in a thread of its own. Its methods are called from the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a job; the future has its result, its OSError, or RuntimeError after any other exception in a job."""
        future = self._loop.create_future()
        self._jobs.put((job, future))
        return future

    def stop(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        broken: RuntimeError | None = None
        while (item := self._jobs.get()) is not None:
            job, future = item
            result, error = None, None
            try:
                result = job() if broken is None else None
            except OSError as failure:
                error = failure
            except BaseException as failure:  # noqa: BLE001 - the files may be in any state: no further job runs
                broken = RuntimeError(f"the journal's writer failed: {failure!r}")
                broken.__cause__ = failure
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_complete, future, result, broken or error)


def _complete(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class GroupCommit:
    """Commits deliveries to the main log, and runs the other writes of the journal, in one thread."""

    def __init__(self, log: Log, parked: ParkedLogs, metrics: Metrics, on_committed: Callable[[Group], None]) -> None:
        """`on_committed` is called in the event loop's thread, before the futures of a group are done."""
        self.failure: Exception | None = None
        self.free_bytes = log.free_bytes()
        self.pending_bytes = 0
        self._main_log = log
        self._parked_logs = parked
        self._metrics = metrics
        self._on_committed = on_committed
        self._pending: deque[tuple[Delivery, asyncio.Future[None]]] = deque()
        self._committing: list[asyncio.Future[None]] = []
        self._wakeup = asyncio.Event()
        self._checkpoint_due = asyncio.Event()
        self._committed_at = 0.0
        self._abandoned = 0
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._writer = WriterThread()

    @property
    def count(self) -> int:
        """Number of deliveries that wait for the disk."""
        return len(self._pending) + len(self._committing)

    def add(self, delivery: Delivery) -> asyncio.Future[None]:
        """Add a delivery to the next commit; the future fails with DeliveryRejected when the write fails."""
        if self._ended:
            raise self.rejection()
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending.append((delivery, future))
        self.pending_bytes += len(delivery.body) + DELIVERY_OVERHEAD_BYTES
        self._wakeup.set()
        return future

    def rejection(self) -> DeliveryRejected:
        """Return the rejection of a delivery because of the last failure."""
        return DeliveryRejected("disk_full" if self._disk_full else "journal_unavailable", str(self.failure))

    @property
    def _disk_full(self) -> bool:
        return isinstance(self.failure, OSError) and self.failure.errno in {errno.ENOSPC, errno.EDQUOT}

    async def commit(self) -> None:
        """Commit deliveries as they are added, until cancelled. When this ends, no delivery waits any more."""
        try:
            while True:
                await self._wakeup.wait()
                self._wakeup.clear()
                while self._pending:
                    await self._commit_group()
        except BaseException as error:
            self.failure = RuntimeError(f"the journal has ended: {error!r}")
            raise
        finally:
            self._ended = True
            self._reject([*self._committing, *(future for _, future in self._pending)])

    async def _commit_group(self) -> None:
        deliveries: list[Delivery] = []
        size = 0
        while self._pending and size < GROUP_BYTES:
            delivery, future = self._pending.popleft()
            deliveries.append(delivery)
            self._committing.append(future)
            size += len(delivery.body) + DELIVERY_OVERHEAD_BYTES
        began = time.perf_counter()
        try:
            group = await self._writer.run(partial(self._main_log.append, deliveries))
        except OSError as error:
            self._note_failure(error)
            self._reject(self._committing)
        else:
            self._on_committed(group)
            for future in self._committing:
                if not future.done():
                    future.set_result(None)
            self._committed_at = self._loop.time()
            self._note_success()
            self.schedule_checkpoint()
            self._metrics.record_commit(deliveries, time.perf_counter() - began)
        self._committing = []
        self.pending_bytes -= size

    def _reject(self, futures: Sequence[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(self.rejection())

    def schedule_checkpoint(self) -> None:
        """Have a checkpoint written once the log is idle; a commit before that records the same."""
        self._checkpoint_due.set()

    async def write_checkpoints(self) -> None:
        """Record what was settled while the log is idle, until cancelled."""
        while True:
            await self._checkpoint_due.wait()
            # The space reserved for checkpoints is limited, and a full disk may stay full for a long time.
            await asyncio.sleep(HOUSEKEEPING_SECONDS if self._disk_full else CHECKPOINT_SECONDS)
            if not self._committing and self._loop.time() - self._committed_at >= CHECKPOINT_SECONDS:
                self._checkpoint_due.clear()
                await self._checkpoint()

    async def _checkpoint(self, *, force: bool = False) -> None:
        # A segment has space reserved for checkpoints: on a full disk, only one in a new segment shows recovery.
        new_segment = force and self._disk_full
        job = partial(self._main_log.checkpoint, force=force, new_segment=new_segment)
        try:
            if await self._writer.run(job) and (new_segment or not self._disk_full):
                self._note_success()
        except OSError as error:
            self._note_failure(error)
        await self.write_parked(self._parked_logs.checkpoint)

    async def write_parked(self, job: Callable[[], None]) -> bool:
        """Run a job on the logs of the parked deliveries; return whether it succeeded. A failure is logged."""
        try:
            await self._writer.run(job)
        except OSError as error:
            _log.error("journal_write_failed", detail=str(error), parked=True, hint=WRITE_FAILED_HINT)
            self._count_abandoned()
            return False
        return True

    def _note_failure(self, error: OSError) -> None:
        if self.failure is None:
            _log.error("journal_write_failed", detail=str(error), hint=WRITE_FAILED_HINT)
        self.failure = error
        self._count_abandoned()

    def _note_success(self) -> None:
        if self.failure is not None:
            self.failure = None
            _log.info("journal_recovered")

    def _count_abandoned(self) -> None:
        abandoned = self._main_log.abandoned + sum(topic.log.abandoned for topic in self._parked_logs.topics())
        self._metrics.record_abandoned_segments(abandoned - self._abandoned)
        self._abandoned = abandoned

    async def keep_house(self) -> None:
        """Look at the disk, and try a failed disk again, so that an idle journal recovers; until cancelled."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                self.free_bytes = await self._writer.run(self._inspect)
            except OSError as error:
                self._note_failure(error)
            if self._parked_logs.topics():
                await self.write_parked(self._parked_logs.check_segments)
            if self.failure is not None and not self._committing:
                await self._checkpoint(force=True)

    def _inspect(self) -> int:
        self._main_log.check_segment()
        return self._main_log.free_bytes()

    async def finish(self) -> None:
        """Commit the deliveries that wait, and record what was settled."""
        if futures := [*self._committing, *(future for _, future in self._pending)]:
            await asyncio.wait(futures)
        if not self._ended:
            await self._checkpoint()

    def close(self) -> None:
        """End the thread."""
        self._writer.stop()
