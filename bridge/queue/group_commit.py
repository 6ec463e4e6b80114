"""Group commit: deliveries that wait for the disk become frames of the log, written by one thread.

Input: deliveries, each with a future that is done when it is on disk. The event loop wakes the writer thread once for
each commit, and the thread wakes the loop once with the result. Later deliveries are in the next commit.

Invariants: only the writer thread changes files. A job of it may fail with OSError, which is a result: the deliveries
concerned are rejected, and `failure` is set until a later write succeeds. Any other exception ends the thread; `watch`
then raises in the journal's task group, which ends the daemon.
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
"""Idle time after which the log records what was settled, without a delivery to record it with."""
HOUSEKEEPING_SECONDS = 1.0
"""Interval of looking at the free disk, and of trying a failed disk again."""
GROUP_BYTES = 1024 * 1024
"""Size at which a group commit is complete; further deliveries form the next one."""
OVERHEAD_BYTES = 64
"""Counted for each delivery in addition to its body, so that empty bodies are bounded too."""

Done = Callable[[Any, OSError | None], None]
_log = structlog.stdlib.get_logger()


class WriterThread:
    """A thread for jobs, started at once. Its methods are called from the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[None] = self._loop.create_future()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        """Run `job` in the thread, then `done` in the loop with its result, or with the OSError that it raised."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[], Any]) -> Any:
        """Run `job` in the thread and return its result. Raises OSError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: OSError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(job, done)
        return await future

    def stop(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (item := self._jobs.get()) is not None:
                job, done = item
                result, failure = None, None
                try:
                    result = job()
                except OSError as error:
                    failure = error
                self._loop.call_soon_threadsafe(done, result, failure)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the daemon must not continue without its writer
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._report_death, error)

    def _report_death(self, error: BaseException) -> None:
        if not self.died.done():
            death = RuntimeError(f"the journal's writer thread ended: {error!r}")
            death.__cause__ = error
            self.died.set_exception(death)


class GroupCommit:
    """Commits deliveries to a log, and runs the other writes of the journal, in one thread."""

    def __init__(self, log: Log, parked: ParkedLogs, metrics: Metrics, on_committed: Callable[[Group], None]) -> None:
        """`on_committed` is called in the event loop's thread, before the futures of a group are done."""
        self.failure: OSError | None = None
        self.free_bytes = log.free_bytes()
        self.pending_bytes = 0
        self._log = log
        self._parked = parked
        self._metrics = metrics
        self._on_group = on_committed
        self._pending: deque[tuple[Delivery, asyncio.Future[None]]] = deque()
        self._committing: list[asyncio.Future[None]] = []
        self._scheduled = False
        self._committed_at = 0.0
        self._checkpoint_timer: asyncio.TimerHandle | None = None
        self._abandoned = 0
        self._loop = asyncio.get_running_loop()
        self._writer = WriterThread()

    @property
    def count(self) -> int:
        """Number of deliveries that wait for the disk."""
        return len(self._pending) + len(self._committing)

    def add(self, delivery: Delivery) -> asyncio.Future[None]:
        """Add a delivery to the next commit; the future fails with DeliveryRejected when the write fails."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending.append((delivery, future))
        self.pending_bytes += len(delivery.body) + OVERHEAD_BYTES
        self._schedule()
        return future

    def _schedule(self) -> None:
        """Start a commit after everything that is ready in this turn of the loop: one sync for a burst."""
        if not self._scheduled and not self._committing:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        deliveries: list[Delivery] = []
        size = 0
        while self._pending and size < GROUP_BYTES:
            delivery, future = self._pending.popleft()
            deliveries.append(delivery)
            self._committing.append(future)
            size += len(delivery.body) + OVERHEAD_BYTES
        done = partial(self._on_committed, size, time.perf_counter())
        self._writer.submit(partial(self._log.append, deliveries), done)

    def _on_committed(self, size: int, began: float, group: Group | None, error: OSError | None) -> None:
        futures, self._committing = self._committing, []
        self.pending_bytes -= size
        if error is not None:
            self._reject(futures, error)
            self._note_failure(error)
        elif group is not None:
            self._on_group(group)
            for future in futures:
                if not future.done():
                    future.set_result(None)
            self._committed_at = self._loop.time()
            self._note_success()
            self.schedule_checkpoint()
            self._metrics.record_commit(group.deliveries, time.perf_counter() - began)
        if self._pending:
            self._schedule()

    def _reject(self, futures: Sequence[asyncio.Future[None]], error: OSError | str) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(rejection(error))

    async def write(self, job: Callable[[], None]) -> bool:
        """Run a job in the writer thread; return whether it succeeded."""
        try:
            await self._writer.run(job)
        except OSError as error:
            self._note_failure(error)
            return False
        self._note_success()
        return True

    def schedule_checkpoint(self) -> None:
        """Write a checkpoint soon, unless commits record everything before."""
        if self._checkpoint_timer is None:
            self._checkpoint_timer = self._loop.call_later(CHECKPOINT_SECONDS, self._checkpoint_if_idle)

    def _checkpoint_if_idle(self) -> None:
        self._checkpoint_timer = None
        if self._committing or self._loop.time() - self._committed_at < CHECKPOINT_SECONDS:
            self.schedule_checkpoint()
        elif self.failure is None:
            self._writer.submit(self._checkpoint, self._on_checkpoint)

    def _checkpoint(self) -> None:
        self._log.checkpoint()
        self._parked.checkpoint()

    def _on_checkpoint(self, _: None, error: OSError | None) -> None:
        if error is not None:
            self._note_failure(error)

    def _note_failure(self, error: OSError) -> None:
        if self.failure is None:
            _log.error("journal_write_failed", detail=str(error))
        self.failure = error
        abandoned = self._log.abandoned + sum(topic.log.abandoned for topic in self._parked.topics())
        self._metrics.record_abandoned_segments(abandoned - self._abandoned)
        self._abandoned = abandoned

    def _note_success(self) -> None:
        if self.failure is not None:
            self.failure = None
            _log.info("journal_recovered")

    async def watch(self) -> None:
        """Raise when the writer thread ends: no delivery could be acknowledged any more."""
        try:
            await asyncio.shield(self._writer.died)
        except RuntimeError:
            self._reject([*self._committing, *(future for _, future in self._pending)], "the writer thread ended")
            raise

    async def keep_house(self) -> None:
        """Look at the free disk; while the last write failed, try again, so that an idle journal recovers too."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                self.free_bytes = await self._writer.run(self._log.free_bytes)
                if self.failure is not None and not self._committing:
                    await self._writer.run(partial(self._log.checkpoint, force=True))
                    self._note_success()
            except OSError as error:
                self._note_failure(error)

    async def finish(self) -> None:
        """Commit the deliveries that wait, and record what was settled."""
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        if futures := [*self._committing, *(future for _, future in self._pending)]:
            await asyncio.wait(futures)
        if not self._writer.died.done():
            await self.write(self._checkpoint)

    def close(self) -> None:
        """End the thread."""
        self._writer.stop()


def rejection(error: OSError | str) -> DeliveryRejected:
    """Return the rejection of a delivery that could not be written."""
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return DeliveryRejected("disk_full" if full else "journal_unavailable", str(error))
