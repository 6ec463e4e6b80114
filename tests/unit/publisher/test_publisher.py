"""The publisher: what it reads ahead, collects, settles, dead-letters and parks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError, for_code

from bridge.config.sections import KafkaSettings
from bridge.contract import normalizer as normalizing
from bridge.contract.normalizer import Normalizer
from bridge.contract.parsing import parse
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from bridge.kafka.topics import TopicSurvey
from bridge.publisher import blocked_topics, publisher
from bridge.publisher.publisher import Publisher
from bridge.queue.interface import Group, Parked
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.unit.publisher.fake_kafka import FakeKafka, Record

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


@pytest.fixture(autouse=True)
def known_topics(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Kafka the topics of the contract, and retries a short pause."""
    kafka.topics = set(TOPICS)
    monkeypatch.setattr(blocked_topics, "backoff", lambda _: 0.01)
    monkeypatch.setattr(publisher, "backoff", lambda _: 0.01)


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


async def test_fault_in_the_normalizer_dead_letters_that_event(
    kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception on one delivery makes it a dead letter; the others are published."""

    def parse_with_a_fault(body: bytes) -> Any:
        if b"bad" in body:
            raise RuntimeError("a fault")
        return parse(body)

    monkeypatch.setattr(normalizing, "parse", parse_with_a_fault)
    queue = Queue()
    queue.add(ready(), b'{"bad": 1}', ready())
    async with running(queue) as made:
        await until(lambda: queue.depth == 0)
        assert made.summary.dead_lettered == 1
    assert len(kafka.log[READY]) == 2
    assert orjson.loads(kafka.values(DEAD)[0])["reason"] == "internal_error"


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


@pytest.mark.parametrize("limit", [0, 1_000, 100_000])
async def test_dead_letter_that_is_too_large_is_published_without_its_body(kafka: FakeKafka, limit: int) -> None:
    """Where the dead-letter topic rejects a body, its size and hash are published; the others are not held up."""
    kafka.reject = lambda topic, records: (
        MessageSizeTooLargeError() if topic == DEAD and max(len(r.value) for r in records) > limit + 2_000 else None
    )
    queue = Queue()
    queue.add(b"x" * 200_000, ready())
    async with running(queue):
        await until(lambda: queue.depth == 0)
    (record,) = [orjson.loads(value) for value in kafka.values(DEAD)]
    assert (record["reason"], record["body_bytes"], record["body_base64"]) == ("invalid_json", 200_000, "")
    assert len(kafka.log[READY]) == 1


async def test_dead_letter_without_a_key_is_accepted_by_a_compacted_topic(kafka: FakeKafka) -> None:
    """A compacted topic rejects records without a key: the last resort has its id as the key."""

    def reject(topic: str, records: list[Record]) -> BaseException | None:
        invalid: BaseException = for_code(87)()
        return invalid if topic == DEAD and not all(record.key for record in records) else None

    kafka.reject = reject
    queue = Queue()
    queue.add(b"no JSON", ready())
    async with running(queue):
        await until(lambda: queue.depth == 0)
    assert len(kafka.log[DEAD]) == len(kafka.log[READY]) == 1


async def test_dead_letter_that_is_rejected_in_every_form_is_parked(kafka: FakeKafka) -> None:
    """Nothing is lost and nothing waits behind a dead-letter topic that accepts nothing; later it is published."""
    kafka.reject = lambda topic, _: MessageSizeTooLargeError() if topic == DEAD else None
    queue = Queue()
    queue.add(b"no JSON", ready(), ready())
    async with running(queue) as made:
        await until(lambda: queue.parked == {DEAD: 1} and len(kafka.log[READY]) == 2)
        assert made.summary.remaining == 1
        producers = kafka.producers
        await asyncio.sleep(0.1)
        assert kafka.producers - producers < 100, "a hot loop"
        kafka.reject = lambda _topic, _records: None
        await until(lambda: queue.depth == 0)
    assert len(kafka.log[DEAD]) == 1


async def test_parked_dead_letter_remains_one_when_its_topic_is_unblocked(kafka: FakeKafka) -> None:
    """An event that was rejected by its topic and parked as a dead letter is not sent to its topic again."""

    def reject(topic: str, records: list[Record]) -> BaseException | None:
        unauthorized: BaseException = TopicAuthorizationFailedError()
        too_large: BaseException = MessageSizeTooLargeError()
        if topic == DEAD:
            return unauthorized
        return too_large if any(b"large" in record.value for record in records) else None

    kafka.reject = reject
    queue = Queue()
    queue.add(ready(title="large"), ready(title="small"))
    async with running(queue):
        await until(lambda: queue.parked == {DEAD: 1})
        kafka.reject = lambda _topic, _records: None
        await until(lambda: queue.depth == 0)
    assert len(kafka.log[READY]) == len(kafka.log[DEAD]) == 1


async def test_blocked_topic_parks_its_events_and_keeps_their_order(kafka: FakeKafka) -> None:
    """The others are published meanwhile; when the topic is there, parked and later events follow in order."""
    kafka.topics.discard(READY)
    queue = Queue()
    queue.add(*[ready(progress=number) for number in range(50)], orjson.dumps({"type": "unheard of"}))
    async with running(queue):
        await until(lambda: queue.parked == {READY: 50} and kafka.log["gumlet.unrecognized"])
        queue.add(*[ready(progress=number) for number in range(50, 60)])
        await until(lambda: queue.parked == {READY: 60})
        kafka.topics.add(READY)
        queue.add(*[ready(progress=number) for number in range(60, 100)])
        await until(lambda: queue.depth == 0)
    assert [orjson.loads(value)["progress_percent"] for value in kafka.values(READY)] == list(range(100))


async def test_parked_events_behind_a_failed_batch_keep_their_order(kafka: FakeKafka) -> None:
    """A batch of parked events that fails is sent again before those behind it."""
    kafka.topics.discard(READY)
    kafka.max_records = 7
    queue = Queue()
    queue.add(*[ready(progress=number) for number in range(60)])
    async with running(queue):
        await until(lambda: queue.parked == {READY: 60})
        failures = [OSError(), OSError(), OSError()]
        kafka.reject = lambda topic, _: failures.pop() if topic == READY and failures else None
        kafka.topics.add(READY)
        await until(lambda: queue.depth == 0)
    assert [orjson.loads(value)["progress_percent"] for value in kafka.values(READY)] == list(range(60))


async def test_parked_event_that_becomes_a_dead_letter_does_not_wait_for_a_blocked_dead_letter_topic(
    kafka: FakeKafka,
) -> None:
    """It is parked as a dead letter, and the events behind it are published in order; later it is published too."""
    too_large: BaseException = MessageSizeTooLargeError()
    kafka.reject = lambda topic, records: (
        too_large if topic == READY and any(len(record.value) > 1_000 for record in records) else None
    )
    kafka.topics -= {READY, DEAD}
    queue = Queue()
    queue.add(
        *[ready(progress=number) for number in range(3)],
        ready(progress=3, title="x" * 1_000),
        *[ready(progress=number) for number in range(4, 8)],
    )
    async with running(queue):
        await until(lambda: queue.parked == {READY: 8})
        kafka.topics.add(READY)
        await until(lambda: queue.parked == {DEAD: 1})
        queue.add(*[ready(progress=number) for number in range(8, 12)])
        await until(lambda: len(kafka.log[READY]) == 11)
        kafka.topics.add(DEAD)
        await until(lambda: queue.depth == 0)
    progress = [orjson.loads(value)["progress_percent"] for value in kafka.values(READY)]
    assert progress == [number for number in range(12) if number != 3]
    (dead,) = [orjson.loads(value) for value in kafka.values(DEAD)]
    assert dead["asset_id"] == "a1"


async def test_parked_event_whose_dead_letter_is_rejected_in_every_form_is_parked_as_a_dead_letter(
    kafka: FakeKafka,
) -> None:
    """A dead-letter topic that accepts nothing, found out by a retry, blocks itself and not the retried topic."""
    too_large: BaseException = MessageSizeTooLargeError()
    kafka.reject = lambda topic, records: (
        too_large if topic == DEAD or any(b"large" in record.value for record in records) else None
    )
    kafka.topics.discard(READY)
    queue = Queue()
    queue.add(ready(title="large"), ready(title="small"))
    async with running(queue):
        await until(lambda: queue.parked == {READY: 2})
        kafka.topics.add(READY)
        await until(lambda: queue.parked == {DEAD: 1})
        kafka.reject = lambda topic, records: (
            too_large if topic == READY and any(b"large" in record.value for record in records) else None
        )
        await until(lambda: queue.depth == 0)
    assert [orjson.loads(value)["title"] for value in kafka.values(READY)] == ["small"]
    assert len(kafka.log[DEAD]) == 1


async def test_event_parked_for_a_former_topic_is_parked_for_its_topic_of_today(kafka: FakeKafka) -> None:
    """After a change of the prefix no topic of the former prefix is blocked by one of the new prefix."""
    kafka.topics.discard(READY)
    queue = Queue()
    queue.stored = {"former.video.status.ready": [Parked("former.video.status.ready", 1, Delivery(0, "x", ready()))]}
    async with running(queue):
        await until(lambda: queue.parked == {READY: 1})
        kafka.topics.add(READY)
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
    assert min(later - earlier for earlier, later in itertools.pairwise(turns_at_event)) > 20
