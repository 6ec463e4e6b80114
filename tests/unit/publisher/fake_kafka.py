"""A Kafka in memory with the interface of aiokafka's producer; a test chooses what it rejects."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.event import Delivery, Event
from bridge.publisher.sending import OutgoingEvent

if TYPE_CHECKING:
    from collections.abc import Callable


class Record(NamedTuple):
    """A record in a batch."""

    timestamp: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class Batch:
    """The interface of aiokafka's BatchBuilder."""

    def __init__(self, max_records: int) -> None:
        self.records: list[Record] = []
        self._max_records = max_records

    def append(self, *, timestamp: int, key: bytes | None, value: bytes, headers: Any) -> object | None:
        """Add a record; None when the batch is full."""
        if len(self.records) == self._max_records:
            return None
        self.records.append(Record(timestamp, key, value, headers))
        return object()

    def size(self) -> int:
        """Return the bytes of the batch."""
        return sum(len(record.value) for record in self.records)

    def close(self) -> None:
        """End the batch."""


class FakeKafka:
    """Topics with one partition each, and the producers that are connected to them.

    `reject` returns the error of a batch, or None when Kafka accepts it. `silent` topics get no response. `states` are
    the topics that Kafka reports as unavailable, each with its detail.
    """

    def __init__(self, *topics: str) -> None:
        self.log: dict[str, list[Record]] = defaultdict(list)
        self.batches: list[tuple[str, int]] = []
        self.topics = set(topics)
        self.silent: set[str] = set()
        self.states: dict[str, str] = {}
        self.reject: Callable[[str, list[Record]], BaseException | None] = lambda _topic, _records: None
        self.max_records = 1000
        self.unconfirmed: dict[str, int] = defaultdict(int)
        self.most_unconfirmed = 0
        self.producers = 0
        self.open = 0
        self.flushed: list[bool] = []

    def values(self, topic: str) -> list[bytes]:
        """Return the values of a topic's records."""
        return [record.value for record in self.log[topic]]

    def producer(self, _settings: Any) -> Any:
        """Return what stands for a KafkaProducer."""
        self.producers += 1
        return SimpleNamespace(start=self._start, close=self._close, api=self)

    async def _start(self) -> None:
        self.open += 1

    async def _close(self, *, flush: bool) -> None:
        self.flushed.append(flush)
        self.open -= 1
        self.unconfirmed.clear()

    # The interface of AIOKafkaProducer, as far as it is used.

    @property
    def client(self) -> Any:
        """The producer's client, which knows the topics."""

        async def update() -> None:
            pass

        partitions = {topic: {0} for topic in self.topics}
        return SimpleNamespace(
            cluster=SimpleNamespace(partitions_for_topic=partitions.get), force_metadata_update=update
        )

    def create_batch(self) -> Batch:
        """Return an empty batch."""
        return Batch(self.max_records)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Append a batch, unless it is rejected or its topic is silent; the future is done in a later turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.batches.append((topic, len(batch.records)))
        self.unconfirmed[topic] += 1
        self.most_unconfirmed = max(self.most_unconfirmed, self.unconfirmed[topic])
        if topic in self.silent or topic in self.states:
            return future

        def respond() -> None:
            self.unconfirmed[topic] -= 1
            error = self.reject(topic, batch.records)
            if error is not None:
                future.set_exception(error)
                return
            offset = len(self.log[topic])
            self.log[topic] += batch.records
            future.set_result(SimpleNamespace(offset=offset, partition=partition))

        loop.call_soon(respond)
        return future


def outgoing(topic: str, number: int, *, key: bytes | None = b"asset", received_ms: int = 0) -> OutgoingEvent:
    """Return an event whose value is its number."""
    event = Event(topic, key, str(number).encode(), [], received_ms, "video.status.ready", f"id {number}")
    return OutgoingEvent(event, Delivery(received_ms, "default", b"{}"), number)
