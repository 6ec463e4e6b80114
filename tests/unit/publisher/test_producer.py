"""The producer: an event counts as sent when Kafka has confirmed it, in the order of its partition."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    TopicAuthorizationFailedError,
    UnknownError,
    for_code,
)

from bridge.config.sections import KafkaSettings
from bridge.publisher import unconfirmed
from bridge.publisher.failed_batches import UNKNOWN_ERRORS
from bridge.publisher.sending import BatchProducer
from bridge.telemetry.metrics import Metrics
from tests.unit.publisher.fake_kafka import FakeKafka, Record, outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.publisher.sending import OutgoingEvent, SendReport


def numbers(events: list[OutgoingEvent]) -> list[int]:
    """Return the numbers of events."""
    return [each.number for each in events]


async def send_until_settled(producer: BatchProducer, events: list[OutgoingEvent]) -> list[SendReport]:
    """Send until nothing is to be retried; return the reports."""
    reports = []
    while events:
        reports.append(await producer.send(events))
        events = reports[-1].unsent
    await producer.close()
    return reports


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(),
        KafkaConnectionError(),
        KafkaTimeoutError(),
        NotEnoughReplicasError(),
        OutOfOrderSequenceNumber(),
        ProducerClosed(),
        UnknownError(),
        for_code(89)(),  # a number that aiokafka does not know
    ],
)
async def test_unlisted_error_is_retried_and_not_dead_lettered(kafka: FakeKafka, error: KafkaError) -> None:
    """An error that concerns neither topic nor record leaves its events to a retry; other topics are sent."""
    kafka.reject = lambda topic, _: error if topic == "b" else None
    report = await BatchProducer(KafkaSettings(), Metrics()).send([outgoing("a", 1), outgoing("b", 2)])
    assert (numbers(report.sent), numbers(report.unsent)) == ([1], [2])
    assert not report.rejected
    assert not report.blocked


async def test_topic_with_repeated_unlisted_errors_is_blocked_alone(kafka: FakeKafka) -> None:
    """A topic that fails again and again with an error of the broker's does not hold up the others."""
    kafka.reject = lambda topic, _: UnknownError() if topic == "b" else None
    producer = BatchProducer(KafkaSettings(), Metrics())
    for _ in range(UNKNOWN_ERRORS - 1):
        assert numbers((await producer.send([outgoing("a", 1), outgoing("b", 2)])).unsent) == [2]
    assert list((await producer.send([outgoing("a", 1), outgoing("b", 2)])).blocked) == ["b"]


async def test_invalid_record_is_recognized_by_its_number(kafka: FakeKafka) -> None:
    """INVALID_RECORD (87) rejects the one record that causes it, with those around it sent in order."""
    kafka.reject = lambda _, records: for_code(87)() if any(r.value == b"5" for r in records) else None
    events = [outgoing("a", number) for number in range(20)]
    reports = await send_until_settled(BatchProducer(KafkaSettings(), Metrics()), events)
    assert [(each.outgoing.number, each.reason) for report in reports for each in report.rejected] == [
        (5, "rejected_by_kafka")
    ]
    assert kafka.values("a") == [str(number).encode() for number in range(20) if number != 5]


async def test_batch_over_the_topics_limit_is_sent_in_smaller_batches_in_order(kafka: FakeKafka) -> None:
    """A batch that is too large is halved until it fits; a record that is too large alone is rejected."""

    def too_large(_: str, records: list[Record]) -> BaseException | None:
        return MessageSizeTooLargeError() if sum(len(r.value) for r in records) > 60 else None

    kafka.reject = too_large
    events = [outgoing("a", number) for number in range(100)]
    huge = events[50].event._replace(value=b"x" * 61)
    events[50] = events[50]._replace(event=huge)
    reports = await send_until_settled(BatchProducer(KafkaSettings(), Metrics()), events)
    rejected = [each for report in reports for each in report.rejected]
    assert [(each.outgoing.number, each.reason) for each in rejected] == [(50, "record_too_large")]
    assert kafka.values("a") == [str(number).encode() for number in range(100) if number != 50]


async def test_partition_has_one_unconfirmed_batch_and_nothing_follows_a_failed_one(kafka: FakeKafka) -> None:
    """Behind a failed batch nothing of its partition is sent, and the retry begins with its first event."""
    kafka.max_records = 10
    failures = [KafkaConnectionError()]

    def fail_once(_: str, records: list[Record]) -> BaseException | None:
        return failures.pop() if failures and records[0].value == b"20" else None

    kafka.reject = fail_once
    producer = BatchProducer(KafkaSettings(), Metrics())
    report = await producer.send([outgoing("a", number) for number in range(100)])
    assert numbers(report.sent) == list(range(20))
    assert numbers(report.unsent) == list(range(20, 100))
    assert kafka.most_unconfirmed == 1
    await producer.send(report.unsent)
    assert kafka.values("a") == [str(number).encode() for number in range(100)]
    assert kafka.most_unconfirmed == 1


async def test_missing_topic_is_blocked_alone_without_a_send(kafka: FakeKafka) -> None:
    """A topic that is not in the metadata is never named to aiokafka, which would have it created."""
    producer = BatchProducer(KafkaSettings(), Metrics())
    report = await producer.send([outgoing("a", 1), outgoing("c", 2), outgoing("c", 3)])
    assert numbers(report.sent) == [1]
    assert list(report.blocked) == ["c"]
    assert numbers(report.unsent) == [2, 3]
    assert kafka.batches == [("a", 1)]
    assert kafka.producers == 1, "nothing has failed: the producer stays"


async def test_topic_without_a_leader_is_blocked_while_others_are_sent(kafka: FakeKafka) -> None:
    """A batch without a response whose topic Kafka reports as unavailable is given up; the others are confirmed."""
    kafka.states["b"] = "no leader"
    report = await BatchProducer(KafkaSettings(), Metrics()).send([outgoing("a", 1), outgoing("b", 2)])
    assert numbers(report.sent) == [1]
    assert report.blocked == {"b": "no leader"}


async def test_silent_topic_is_blocked_while_kafka_responds(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """An available topic that confirms nothing (too few in-sync replicas) does not hold up the others."""
    monkeypatch.setattr(unconfirmed, "SILENT_SECONDS", 0.05)
    kafka.silent.add("b")
    report = await BatchProducer(KafkaSettings(), Metrics()).send([outgoing("a", 1), outgoing("b", 2)])
    assert numbers(report.sent) == [1]
    assert list(report.blocked) == ["b"]
    assert numbers(report.unsent) == [2]


async def test_error_of_the_topic_blocks_the_whole_topic(kafka: FakeKafka) -> None:
    """Authorization is the topic's: none of its events is rejected or retried."""
    kafka.reject = lambda topic, _: TopicAuthorizationFailedError() if topic == "b" else None
    report = await BatchProducer(KafkaSettings(), Metrics()).send(
        [outgoing("b", 1), outgoing("a", 2), outgoing("b", 3)]
    )
    assert list(report.blocked) == ["b"]
    assert numbers(report.unsent) == [1, 3]
    assert numbers(report.sent) == [2]


@pytest.mark.parametrize("accepted_age_ms", [3_600_000, 60_000, 5_000])
async def test_record_times_are_bounded_to_what_the_topic_accepts(kafka: FakeKafka, accepted_age_ms: int) -> None:
    """Records older than the topic accepts get later times; younger ones keep the time of their receipt."""
    now = int(time.time() * 1000)
    kafka.reject = lambda _, records: (
        InvalidTimestampError() if any(r.timestamp < now - accepted_age_ms - 100 for r in records) else None
    )
    events = [outgoing("a", 0, received_ms=now - 86_400_000), outgoing("a", 1, received_ms=now - 10)]
    reports = await send_until_settled(BatchProducer(KafkaSettings(), Metrics()), events)
    assert not any(report.rejected for report in reports)
    assert kafka.values("a") == [b"0", b"1"]
    assert kafka.log["a"][0].timestamp >= now - accepted_age_ms - 100


async def test_record_time_is_never_in_the_future(kafka: FakeKafka) -> None:
    """A receipt in the future (the clock was set back) becomes the present."""
    await BatchProducer(KafkaSettings(), Metrics()).send([outgoing("a", 0, received_ms=2**42)])
    assert kafka.log["a"][0].timestamp <= time.time() * 1000


async def test_record_whose_every_time_is_rejected_is_rejected(kafka: FakeKafka) -> None:
    """What is refused with the present time too is an event's fault, not a blocked topic."""
    kafka.reject = lambda topic, _: InvalidTimestampError() if topic == "a" else None
    reports = await send_until_settled(BatchProducer(KafkaSettings(), Metrics()), [outgoing("a", 0), outgoing("b", 1)])
    assert [each.reason for report in reports for each in report.rejected] == ["rejected_by_kafka"]
    assert kafka.values("b") == [b"1"]


async def test_fault_in_the_encoder_rejects_that_event_alone(kafka: FakeKafka) -> None:
    """An exception while one record is encoded dead-letters this event; those around it are sent."""

    class FaultyEncoder:
        available = True

        async def prepare(self) -> None:
            pass

        async def unavailable_reason(self, _topic: str) -> str | None:
            return None

        def encode(self, event: Any) -> Any:
            if event.value == b"1":
                raise ValueError("a fault")
            return event

    producer = BatchProducer(KafkaSettings(), Metrics(), encoder=cast("Any", FaultyEncoder()))
    report = await producer.send([outgoing("a", number) for number in range(3)])
    assert [(each.outgoing.number, each.reason) for each in report.rejected] == [(1, "internal_error")]
    assert kafka.values("a") == [b"0", b"2"]


@pytest.mark.parametrize("kafka_responds", [True, False])
async def test_producer_is_replaced_only_when_kafka_accepts_a_new_connection(
    kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch, *, kafka_responds: bool
) -> None:
    """Beyond the delivery timeout a batch is given up if Kafka responds to others; else the same producer waits."""
    probes = 0

    @contextlib.asynccontextmanager
    async def kafka_client(_settings: Any) -> AsyncIterator[None]:
        nonlocal probes
        probes += 1
        if not kafka_responds:
            raise KafkaConnectionError
        yield

    monkeypatch.setattr(unconfirmed, "kafka_client", kafka_client)
    kafka.silent.add("a")
    settings = KafkaSettings(delivery_timeout_seconds=0.02)
    producer = BatchProducer(settings, Metrics(), block_silent=False)
    sent = asyncio.create_task(producer.send([outgoing("a", 1)]))
    async with asyncio.timeout(10):
        while probes < 3 and not sent.done():  # noqa: ASYNC110 - the producer works on its own
            await asyncio.sleep(0.005)
    if kafka_responds:
        assert numbers((await sent).unsent) == [1]
        assert kafka.open == 0
    else:
        assert not sent.done()
        assert (kafka.producers, kafka.open) == (1, 1)
        sent.cancel()
        await asyncio.wait([sent])
    await producer.close()


async def test_closing_in_the_middle_of_a_send_does_not_wait_for_a_confirmation(kafka: FakeKafka) -> None:
    """A send that is cancelled leaves nothing open behind `close`."""
    kafka.silent.add("a")
    producer = BatchProducer(KafkaSettings(), Metrics())
    sent = asyncio.create_task(producer.send([outgoing("a", 1)]))
    while not kafka.batches:  # noqa: ASYNC110 - the producer works on its own
        await asyncio.sleep(0)
    sent.cancel()
    await asyncio.wait([sent])
    await producer.close()
    assert kafka.open == 0
    assert kafka.flushed == [False]
