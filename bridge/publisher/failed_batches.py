"""Decides what follows a failed batch, and remembers which batches and record times each topic accepts.

Input: the partition queues of a send. Output: the rejected events, the blocked topics, and the limits of the next
batches; an event that is in neither is sent again.

Invariants:

* What Kafka rejects in a batch is found by smaller batches: half the bytes after "too large", half the records after a
  record was rejected. Only a record that was rejected alone is reported.
* A record's time is its receipt, but never in the future, and not older than its topic was seen to accept.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import structlog
from aiokafka.errors import BrokerResponseError

from bridge.kafka.client import describe_error
from bridge.kafka.produce_errors import TOO_LARGE, classify, error_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bridge.event import Event
    from bridge.kafka.topics import TopicLimits
    from bridge.publisher.sending import OutgoingEvent, PartitionQueue

OLDEST_RECORD_MS = (3_600_000, 60_000, 0)
"""Ages of a record that are tried in turn when a topic rejects older ones."""
ALL_RECORDS = 2**31
"""No limit to the records of a batch."""
UNKNOWN_ERRORS = 3
"""Sends in a row in which a topic's batches may fail with an unlisted error before the topic counts as blocked."""

_log = structlog.stdlib.get_logger()


class Rejection(NamedTuple):
    """An event that Kafka can never accept: `reason` is a dead letter's, `detail` the error's text."""

    outgoing: OutgoingEvent
    reason: str
    detail: str


class BatchLimits:
    """What was learned of topics and partitions."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._records: dict[tuple[str, int], int] = {}
        self._oldest_ms: dict[str, int] = {}
        self._unknown_errors: Counter[str] = Counter()

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

    def grow(self, queue: PartitionQueue) -> None:
        """Let the batches of a partition grow again after one was confirmed."""
        partition = queue.topic, queue.partition
        if partition in self._records:
            self._records[partition] *= 2
            if self._records[partition] >= len(queue.pending):
                del self._records[partition]

    def learn(self, queues: Sequence[PartitionQueue]) -> tuple[list[Rejection], dict[str, str]]:
        """Return the rejected events and the blocked topics with their reasons, at the end of a send."""
        failed = [queue for queue in queues if queue.error is not None]
        self._count_unknown_errors({queue.topic for queue in queues}, failed)
        rejected: list[Rejection] = []
        blocked: dict[str, str] = {}
        later_times: set[str] = set()
        for queue in failed:
            topic, error = queue.topic, queue.error
            if not isinstance(error, BaseException):
                blocked.setdefault(topic, error or "")
                continue
            concern, detail = classify(error), describe_error(error)
            if error_number(error) in TOO_LARGE:
                detail = f"about {queue.batch_bytes} bytes are more than the topic's max.message.bytes"
            if concern == "topic" or self._unknown_errors[topic] >= UNKNOWN_ERRORS:
                blocked.setdefault(topic, detail)
                continue
            _log.warning("batch_failed", topic=topic, partition=queue.partition, detail=detail, hint="retrying")
            if concern == "record_time" and (topic in later_times or self._use_later_times(topic)):
                later_times.add(topic)
            elif concern != "unknown" and not self._shrink(queue, error):
                reason = "record_too_large" if error_number(error) in TOO_LARGE else "rejected_by_kafka"
                rejected.append(Rejection(queue.batch[0], reason, detail))
        return rejected, blocked

    def _count_unknown_errors(self, topics: set[str], failed: Sequence[PartitionQueue]) -> None:
        """Count the sends in a row in which the broker failed a topic's batches with an unlisted error."""
        unknown = {
            queue.topic
            for queue in failed
            if isinstance(queue.error, BrokerResponseError) and classify(queue.error) == "unknown"
        }
        for topic in self._unknown_errors.keys() & (topics - unknown):
            del self._unknown_errors[topic]
        self._unknown_errors.update(unknown)

    def _shrink(self, queue: PartitionQueue, error: BaseException) -> bool:
        """Make the next batch smaller than the one that was rejected; return False when it had only one record."""
        count = len(queue.batch)
        if count == 1:
            return False
        if error_number(error) in TOO_LARGE:
            self._bytes[queue.topic] = max(1, min(queue.batch_bytes // 2, self._bytes.get(queue.topic, 2**31)))
            # The bytes are estimated: fewer records in any case.
        self._records[queue.topic, queue.partition] = count // 2
        return True

    def _use_later_times(self, topic: str) -> bool:
        """Give the records of a topic later times; return False when they have the present time already."""
        present = self._oldest_ms.get(topic)
        for age in OLDEST_RECORD_MS:
            if present is None or age < present:
                self._oldest_ms[topic] = age
                return True
        return False
