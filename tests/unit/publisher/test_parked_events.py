"""Dead letters, blocked topics and parked events: nothing stops the others, and the order is kept."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError, for_code
from structlog.testing import capture_logs

from bridge.contract import normalizer as normalizing
from bridge.contract.parsing import parse
from bridge.event import Delivery
from bridge.publisher import blocked_topics
from bridge.queue.interface import Parked

if TYPE_CHECKING:
    from tests.unit.publisher.fake_kafka import FakeKafka, Record
from tests.unit.publisher.queues import DEAD, READY, Queue, ready, running, until

pytestmark = pytest.mark.usefixtures("known_topics")


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


@pytest.mark.parametrize("limit", [0, 1_000, 100_000])
async def test_dead_letter_that_is_too_large_is_published_without_its_body(kafka: FakeKafka, limit: int) -> None:
    """Where the dead-letter topic rejects a body, its size and hash are published; the others are not held up."""
    kafka.reject = lambda topic, records: (
        MessageSizeTooLargeError() if topic == DEAD and max(len(r.value) for r in records) > limit + 2_000 else None
    )
    queue = Queue()
    queue.add(b"x" * 200_000, ready())
    with capture_logs() as logs:
        async with running(queue):
            await until(lambda: queue.depth == 0)
    (line,) = [line for line in logs if line["event"] == "dead_letter_without_body"]
    assert (line["log_level"], line["bytes"]) == ("error", 200_000)
    (record,) = [orjson.loads(value) for value in kafka.values(DEAD)]
    assert (record["reason"], record["body_bytes"], record["body_base64"]) == ("invalid_json", 200_000, "")
    assert "bytes are more than the topic's max.message.bytes" in record["detail"]
    assert len(kafka.log[READY]) == 1


async def test_dead_letter_on_a_compacted_topic_has_a_key_and_its_body(kafka: FakeKafka) -> None:
    """A compacted topic rejects records without a key: the dead letter gets its id as the key, and keeps its body."""

    def reject(topic: str, records: list[Record]) -> BaseException | None:
        invalid: BaseException = for_code(87)()
        return invalid if topic == DEAD and not all(record.key for record in records) else None

    kafka.reject = reject
    queue = Queue()
    queue.add(b"no JSON" * 1000, ready())
    async with running(queue):
        await until(lambda: queue.depth == 0)
    (record,) = [orjson.loads(value) for value in kafka.values(DEAD)]
    assert base64.b64decode(record["body_base64"]) == b"no JSON" * 1000
    assert len(kafka.log[READY]) == 1


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


@pytest.mark.parametrize("seconds", [60.0, 0.0])
async def test_topics_that_stay_blocked_are_logged_together_once_a_minute(
    kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A retry that fails for the same cause is not logged; a reminder has the number of blocked topics."""
    monkeypatch.setattr(blocked_topics, "STILL_BLOCKED_SECONDS", seconds)
    created = "gumlet.video.status.created"
    attempts = 0

    def reject(topic: str, _: list[Record]) -> Exception | None:
        nonlocal attempts
        attempts += topic in {READY, created}
        return TopicAuthorizationFailedError() if topic in {READY, created} else None

    kafka.reject = reject
    queue = Queue()
    queue.add(ready(), orjson.dumps({"type": "video.status.created", "asset_id": "a1"}))
    with capture_logs() as logs:
        async with running(queue):
            await until(lambda: attempts > 20)
    assert [line["event"] for line in logs].count("topic_blocked") == 2
    reminders = [line for line in logs if line["event"] == "topics_still_blocked"]
    assert bool(reminders) == (seconds == 0)
    assert all(line["topics"] <= 2 and line["fix"] for line in reminders)
    assert not [line for line in logs if line["event"] == "topic_still_blocked"]
