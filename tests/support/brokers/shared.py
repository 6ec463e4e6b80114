"""One Apache Kafka for all processes of a test run.

`SharedKafka(directory).acquire()` returns the run's broker; the first caller starts a process that runs it
(`python -m tests.support.brokers.shared DIRECTORY`). Each user holds a shared lock on a file of the directory until it
calls `release()` or ends, also by a crash. The broker's process waits for the exclusive lock, so it stops the broker
after the last user.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from tests.support.brokers import Broker, KafkaUnavailableError, apache_kafka

START_SECONDS = 300
ROOT = Path(__file__).parents[3]


class SharedKafka:
    """The broker of a test run, whose state is in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / "broker.json"
        self._use: IO[str] | None = None

    def acquire(self) -> Broker:
        """Return the broker and keep it running. Raises KafkaUnavailableError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "start.lock").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._use = (self._directory / "users.lock").open("w")
            fcntl.flock(self._use, fcntl.LOCK_SH)  # waits while an earlier broker stops
            if not self._state.exists():
                self._start()
        state = json.loads(self._state.read_text())
        if "unavailable" in state:
            raise KafkaUnavailableError(state["unavailable"])
        return Broker(**state)

    def release(self) -> None:
        """Let the broker stop once no other process uses it."""
        if self._use is not None:
            self._use.close()
            self._use = None

    def join(self) -> None:
        """Wait until the broker has stopped."""
        lock = self._directory / "users.lock"
        if lock.exists():
            with lock.open("w") as users:
                fcntl.flock(users, fcntl.LOCK_EX)

    def _start(self) -> None:
        with (self._directory / "broker.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._directory)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard must not end it before its users
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._state.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                log_text = (self._directory / "broker.log").read_text()
                raise KafkaUnavailableError(f"the broker's process did not start: {log_text[-2000:]}")
            time.sleep(0.05)
        process.returncode = 0  # it ends after this process


def main() -> None:
    """Run the broker until no process uses it."""
    directory = Path(sys.argv[1])
    state, unfinished = directory / "broker.json", directory / "broker.json.new"
    with (directory / "users.lock").open("w") as users:
        try:
            with apache_kafka(directory / f"kafka-{os.getpid()}") as broker:
                unfinished.write_text(json.dumps(broker._asdict()))
                unfinished.rename(state)
                fcntl.flock(users, fcntl.LOCK_EX)
                state.unlink()
        except KafkaUnavailableError as reason:
            unfinished.write_text(json.dumps({"unavailable": str(reason)}))
            unfinished.rename(state)


if __name__ == "__main__":
    main()
