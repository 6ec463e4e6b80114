"""The publisher: what it reads ahead, collects and settles, and what cannot stop it."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bridge.config.sections import KafkaSettings
from bridge.contract import normalizer as normalizing
from bridge.contract.normalizer import Normalizer
from bridge.contract.parsing import parse
from bridge.event import Delivery
from bridge.kafka.topics import TopicSurvey
from bridge.publisher import publisher
from bridge.publisher.publisher import Publisher
from bridge.queue.interface import Group
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tests.unit.publisher.fake_kafka import FakeKafka
from tests.unit.publisher.queues import CONTRACT, READY, RECEIVED_MS, TOPICS, Queue, ready, running, until

pytestmark = pytest.mark.usefixtures("known_topics")


@pytest.mark.parametrize(
    ("size", "most"), [(10, publisher.PREFETCH_EVENTS), (512 * 1024, publisher.PREFETCH_BYTES // (512 * 1024))]
)
async def test_prefetch_is_bounded_in_events_and_bytes(kafka: FakeKafka, size: int, most: int) -> None:
    """While Kafka is silent, no more is read than one window and what is prefetched behind it."""
    kafka.silent = set(TOPICS)
    queue = Queue()
    queue.add(*[b"x" * size] * (4 * most))
    async with running(queue):
        await until(lambda: kafka.batches and queue.reads >= most)
        for _ in range(100):
            await asyncio.sleep(0)
        assert queue.reads <= most + most // 2 + 1


async def test_events_within_the_linger_share_a_produce_request(kafka: FakeKafka) -> None:
    """Deliveries that arrive one after the other are collected; nothing of them is lost or reordered."""
    queue = Queue()
    async with running(queue, linger_seconds=0.05):
        for number in range(20):
            queue.add(ready(f"a{number}"))
            await asyncio.sleep(0.002)
        await until(lambda: queue.depth == 0)
    assert sum(count for _, count in kafka.batches) == 20
    assert len(kafka.batches) < 20


async def test_linger_is_skipped_for_a_full_window_and_while_stopping(
    kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog is not slowed down by the linger, nor is the drain."""
    monkeypatch.setattr(publisher, "MAX_BLOCK_SECONDS", 60.0)  # windows do not depend on the machine's speed
    queue = Queue()
    queue.add(*[ready()] * 3 * publisher.WINDOW_EVENTS)
    async with running(queue, linger_seconds=30):
        await until(lambda: queue.depth < publisher.WINDOW_EVENTS)
    assert len(kafka.batches) <= 4


@pytest.mark.parametrize("created_at", ["2016-12-31T23:59:60.000Z", "0000-01-01T00:00:00Z", 0, -1, 2**63, 1e300])
async def test_unusual_timestamp_does_not_stop_the_publisher(kafka: FakeKafka, created_at: Any) -> None:
    """Whatever a body says of the time, its event and those behind it are published."""
    queue = Queue()
    queue.add(orjson.dumps({"type": "video.status.created", "asset_id": "a1", "created_at": created_at}), ready())
    async with running(queue) as made:
        await until(lambda: queue.depth == 0)
        assert made.summary.published.total() == 2
    assert len(kafka.log[READY]) == 1


async def test_fault_in_measuring_does_not_keep_an_event_from_being_settled(kafka: FakeKafka) -> None:
    """A tracer that raises costs its spans and nothing else."""

    class FaultyMetrics(Metrics):
        def _record_dead_letter(self, _event: Any) -> None:
            raise RuntimeError("a fault")

    async def provision() -> TopicSurvey:
        return TopicSurvey([], {})

    queue: Any = Queue()
    queue.add(b"no JSON", ready())
    made = Publisher(queue, Normalizer(CONTRACT), KafkaSettings(), FaultyMetrics(), provision=provision)
    async with made.running(0):
        await until(lambda: queue.depth == 0)
    assert len(kafka.log[READY]) == 1


async def test_a_backlog_yields_to_requests(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """While deliveries wait for their acknowledgement a large backlog pauses in between, and else it does not."""
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    kafka.silent = set(TOPICS)
    queue = Queue()
    delivery = Delivery(RECEIVED_MS, "default", ready())
    queue.groups = [
        Group(n, n, RECEIVED_MS, 1, 0, [delivery] * 25) for n in range(1, publisher.YIELD_BACKLOG_EVENTS + 2)
    ]
    queue.has_pending_acks = True
    monkeypatch.setattr(publisher, "MAX_BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(publisher.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    async with running(queue):
        while len(pauses) < 4:
            await real(0)
    assert publisher.YIELD_SECONDS in pauses[:4]


@pytest.mark.usefixtures("kafka")
async def test_slow_events_leave_many_turns_of_the_loop_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that needs several turns does not wait for a slow event in each of them."""
    turns = 0
    turns_at_event: list[int] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    def parse_slowly(body: bytes) -> Any:
        turns_at_event.append(turns)
        time.sleep(2 * publisher.SLOW_EVENT_SECONDS)
        return parse(body)

    monkeypatch.setattr(normalizing, "parse", parse_slowly)
    queue = Queue()
    queue.add(*[ready()] * 5)
    asyncio.get_running_loop().call_soon(turn)
    async with running(queue):
        await until(lambda: queue.depth == 0)
    assert min(later - earlier for earlier, later in itertools.pairwise(turns_at_event)) > 1
