"""The parked deliveries: a log of its own for each blocked topic, in `parked/<topic>/` of the journal's directory.

A topic's name is percent-encoded in its directory's name. Appending and checkpoints belong to the writer thread,
reading to the reader thread; for one topic the publisher reads and unparks in turn, never at once.
Invariant: each parked delivery is returned by `read` until it is unparked, in the order in which they were parked.
Only a gapless beginning can be recorded as settled: what was unparked behind a pending delivery repeats after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote

from bridge.event import Delivery
from bridge.queue.files import Files
from bridge.queue.frame import State
from bridge.queue.interface import Group, Parked
from bridge.queue.log import Log
from bridge.queue.segment import Damage

DIRECTORY_NAME = "parked"
SEGMENT_BYTES = 4 * 1024 * 1024


def directory_name(topic: str) -> str:
    """Return the name of a topic's directory: no path separator, not `.` or `..`."""
    return quote(topic, safe="").replace(".", "%2E") if not topic.strip(".") else quote(topic, safe="")


class ParkedTopic:
    """The parked deliveries of one topic."""

    def __init__(self, topic: str, log: Log) -> None:
        self.topic = topic
        self.log = log
        self._reader = log.reader(log.state.settled)
        self._read: deque[tuple[Parked, int]] = deque()
        self._position, self._total = log.state.settled, log.state.settled_total

    @property
    def count(self) -> int:
        """Number of parked deliveries."""
        return self.log.last - self._position + len(self._read)

    @property
    def size_bytes(self) -> int:
        """Bytes of the groups that hold them."""
        return self.log.total - self.log.state.settled_total

    @property
    def oldest_ms(self) -> int:
        """Receipt of the oldest parked delivery, or a little earlier; 0 without one."""
        if not self.count:
            return 0
        return self._read[0][0].delivery.received_ms if self._read else self.log.oldest_ms

    def read(self, limit: int, *, skip_unreadable: bool = True) -> list[Parked]:
        """Return the oldest parked deliveries, at most `limit`. Raises OSError."""
        last = self.log.last
        while len(self._read) < limit and self._reader.position < last:
            for group in self._reader.read(last, skip_unreadable=skip_unreadable):
                self._add(group)
            self._position = self._reader.position  # after adding: `count` may be too high meanwhile, never too low
        return [parked for parked, _ in islice(self._read, limit)]

    def _add(self, group: Group) -> None:
        before = group.total - group.size
        for number, delivery in enumerate(group.deliveries, group.first):
            self._read.append((Parked(self.topic, number, delivery), before))
        self._total = group.total

    def unpark(self, numbers: set[int]) -> None:
        """Forget deliveries; the next checkpoint records it as far as there is no pending one before them."""
        oldest_ms = max(self.oldest_ms, 1)
        self._read = deque(entry for entry in self._read if entry[0].number not in numbers)
        if self._read:
            parked, total = self._read[0]
            self.log.settle(State(parked.number - 1, total, parked.delivery.received_ms))
        else:
            total = self.log.total
            self.log.settle(State(self._position, total if self._position == self.log.last else self._total, oldest_ms))


class ParkedLogs:
    """The parked deliveries of all topics."""

    def __init__(
        self, directory: Path, quarantine: Path, report: Callable[[Damage], None], files: Files, segment_bytes: int
    ) -> None:
        """Open the logs that exist. Raises OSError, or UnsupportedJournalVersion."""
        self._directory = directory / DIRECTORY_NAME
        self._quarantine = quarantine
        self._report = report
        self._files = files
        self._segment_bytes = min(segment_bytes, SEGMENT_BYTES)
        self._topics: dict[str, ParkedTopic] = {}
        for name in files.names(self._directory):
            if (self._directory / name).is_dir():
                self._open(unquote(name))

    def _open(self, topic: str) -> ParkedTopic:
        name = directory_name(topic)
        self._files.mkdir(self._directory)
        log = Log(
            self._directory / name,
            self._quarantine,
            self._report,
            files=self._files,
            segment_bytes=self._segment_bytes,
            prefix=f"{name}-",
        )
        self._topics[topic] = opened = ParkedTopic(topic, log)
        return opened

    def topics(self) -> list[ParkedTopic]:
        """Return all topics that have a log; some may have no parked delivery any more."""
        return list(self._topics.values())

    def topic(self, name: str) -> ParkedTopic | None:
        """Return a topic's parked deliveries, if it has a log."""
        return self._topics.get(name)

    def append(self, topic: str, deliveries: Sequence[Delivery]) -> None:
        """Park deliveries of a topic; durable when it returns. Raises OSError."""
        (self._topics.get(topic) or self._open(topic)).log.append(deliveries)

    def checkpoint(self, topics: Iterable[str] = ()) -> None:
        """Record what was unparked, of some topics or of all. Raises OSError."""
        for topic in [self._topics[name] for name in topics] or self.topics():
            topic.log.checkpoint()

    def check_segments(self) -> None:
        """Give up segments whose files were removed. Raises FileNotFoundError for the first of them."""
        for topic in self.topics():
            topic.log.check_segment()

    def close(self) -> None:
        """Close all files."""
        for topic in self.topics():
            topic.log.close()
