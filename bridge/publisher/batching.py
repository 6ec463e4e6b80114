"""Builds the batches of one send: which records go together, and with which time.

Input: the events of a partition, in order. Output: the next batch for it.

Invariants:

* A partition has at most one unconfirmed batch, and it begins with the first event that is not confirmed. So a batch
  that Kafka appends late, when its producer has long been replaced, repeats events and never reorders them: everything
  before its first event was confirmed before it was sent.
* What Kafka rejects in a batch is found by smaller batches: half the bytes after "too large", half the records after a
  record was rejected. A batch of one record names the record.
* A record's time is its receipt, but never in the future, and not older than the topic was seen to accept.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge.kafka.produce_errors import TOO_LARGE, error_number

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from bridge.event import Event
    from bridge.kafka.topics import TopicLimits
    from bridge.publisher.outgoing import OutgoingEvent

OLDEST_RECORD_MS = (3_600_000, 60_000, 0)
"""Ages of a record that are tried in turn when a topic rejects older ones."""
ALL_RECORDS = 2**31
"""No limit to the records of a batch."""


@dataclass(slots=True)
class PartitionQueue:
    """The events of a partition that are to be sent, and the batch that is unconfirmed.

    `error` is the reason why nothing more is sent: the exception of the last batch, or what is wrong with the topic.
    """

    topic: str
    partition: int
    pending: deque[OutgoingEvent] = field(default_factory=deque)
    batch: list[OutgoingEvent] = field(default_factory=list)
    batch_bytes: int = 0
    future: asyncio.Future[Any] | None = None
    sent_at: float = 0.0
    unavailable_checks: int = 0
    error: BaseException | str | None = None

    @property
    def unconfirmed(self) -> list[OutgoingEvent]:
        """The unconfirmed events, in order."""
        return [*self.batch, *self.pending]


class BatchLimits:
    """What was learned of topics and partitions: how large a batch and how old a record they accept."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._records: dict[tuple[str, int], int] = {}
        self._oldest_ms: dict[str, int] = {}

    def set_topics(self, limits: Mapping[str, TopicLimits]) -> None:
        """Take over the limits that topics are configured with."""
        for topic, limit in limits.items():
            # A margin for the time until Kafka receives the record, and for the difference between the clocks.
            self._oldest_ms[topic] = limit.before_max_ms - min(limit.before_max_ms // 10, OLDEST_RECORD_MS[1])

    def max_bytes(self, topic: str) -> float:
        """Return the most bytes of a batch with more than one record."""
        return self._bytes.get(topic, math.inf)

    def max_records(self, queue: PartitionQueue) -> int:
        """Return the most records of a batch."""
        return self._records.get((queue.topic, queue.partition), ALL_RECORDS)

    def record_time(self, event: Event, now_ms: int) -> int:
        """Return the time for a record: its receipt, if the topic accepts it."""
        oldest_ms = now_ms - self._oldest_ms[event.topic] if event.topic in self._oldest_ms else 0
        return min(max(event.received_ms, oldest_ms), now_ms)

    def confirmed(self, queue: PartitionQueue) -> None:
        """Let the batches of a partition grow again."""
        if not self._records:
            return
        place = queue.topic, queue.partition
        limit = self._records.get(place, ALL_RECORDS) * 2
        if limit < len(queue.pending):
            self._records[place] = limit
        else:
            self._records.pop(place, None)

    def shrink(self, queue: PartitionQueue, error: BaseException) -> bool:
        """Make the next batch smaller than the one that was rejected; return False when it had only one record."""
        count = len(queue.batch)
        if count == 1:
            return False
        if error_number(error) in TOO_LARGE:
            self._bytes[queue.topic] = max(1, min(queue.batch_bytes // 2, self._bytes.get(queue.topic, 2**31)))
            # The bytes are estimated: fewer records in any case.
        self._records[queue.topic, queue.partition] = count // 2
        return True

    def reject_age(self, topic: str) -> bool:
        """Give the records of a topic later times; return False when they have the present time already."""
        present = self._oldest_ms.get(topic)
        for age in OLDEST_RECORD_MS:
            if present is None or age < present:
                self._oldest_ms[topic] = age
                return True
        return False
