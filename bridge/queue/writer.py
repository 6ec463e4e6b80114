"""The thread that owns the files of the journal: it runs jobs one after the other.

The event loop wakes it once for each job, and it wakes the loop once with the result. A job may fail with OSError,
which is a result; any other exception ends the thread and is set on `died`, which the journal's task group awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Done = Callable[[Any, OSError | None], None]


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
        except BaseException as error:  # noqa: BLE001 - whatever it is, the daemon must not go on without its writer
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._report_death, error)

    def _report_death(self, error: BaseException) -> None:
        if not self.died.done():
            death = RuntimeError(f"the journal's writer thread ended: {error!r}")
            death.__cause__ = error
            self.died.set_exception(death)
