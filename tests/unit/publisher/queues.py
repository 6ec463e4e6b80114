"""A delivery queue in memory, and a publisher that reads it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import orjson

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from bridge.kafka.topics import TopicSurvey
from bridge.publisher.publisher import Publisher
from bridge.queue.interface import Group, Parked
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


RECEIVED_MS = 1_700_000_000_000
CONTRACT = Contract.load()
TOPICS = [topic.name for topic in CONTRACT.topics.values()]
READY = "gumlet.video.status.ready"
DEAD = "gumlet.dead-letter"


def ready(asset: str = "a1", **fields: Any) -> bytes:
    """Return the body of a ready event."""
    return orjson.dumps({"type": "video.status.ready", "asset_id": asset, **fields})


class Queue:
    """A delivery queue in a list: each delivery is a group of its own."""

    has_pending_acks = False

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.reads = 0
        self.settled = 0
        self.stored: dict[str, list[Parked]] = {}
        self._readable = asyncio.Event()

    def add(self, *bodies: bytes) -> None:
        """Append deliveries."""
        for body in bodies:
            number = len(self.groups) + 1
            delivery = Delivery(RECEIVED_MS, "default", body)
            self.groups.append(Group(number, number, RECEIVED_MS, len(body), 0, [delivery]))
        self._readable.set()

    @property
    def depth(self) -> int:
        """Pending deliveries."""
        return len(self.groups) - self.settled + sum(self.parked.values())

    @property
    def parked(self) -> dict[str, int]:
        """Parked deliveries by topic."""
        return {topic: len(parked) for topic, parked in self.stored.items() if parked}

    async def read(self) -> list[Group]:
        """Return the next group."""
        while self.reads == len(self.groups):
            self._readable.clear()
            await self._readable.wait()
        self.reads += 1
        return [self.groups[self.reads - 1]]

    def settle(self, group: Group) -> None:
        """Remove groups."""
        self.settled = group.last

    async def settle_and_park(self, group: Group, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Keep deliveries of a group."""
        await self.park(parked)
        self.settled = group.last

    async def park(self, parked: Sequence[tuple[str, Delivery]]) -> None:
        """Keep deliveries."""
        for topic, delivery in parked:
            kept = self.stored.setdefault(topic, [])
            kept.append(Parked(topic, kept[-1].number + 1 if kept else 1, delivery))

    async def read_parked(self, topic: str, limit: int) -> list[Parked]:
        """Return parked deliveries."""
        return self.stored.get(topic, [])[:limit]

    async def unpark(self, parked: Sequence[Parked]) -> None:
        """Remove parked deliveries."""
        for topic, kept in self.stored.items():
            self.stored[topic] = [each for each in kept if each not in parked]


@contextlib.asynccontextmanager
async def running(queue: Any, normalizer: Normalizer | None = None, **options: Any) -> AsyncIterator[Publisher]:
    """Run a publisher."""

    async def provision() -> TopicSurvey:
        return TopicSurvey([], {})

    made = Publisher(
        queue, normalizer or Normalizer(CONTRACT), KafkaSettings(), Metrics(), provision=provision, **options
    )
    async with made.running(0):
        yield made


async def until(condition: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - whatever changes it, the test waits for it
            await asyncio.sleep(0.002)
