"""The sender alone: an event counts as sent when Kafka has confirmed it, and for no other reason."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    TopicAuthorizationFailedError,
)

from bridge.config.sections import KafkaSettings
from bridge.event import Delivery, Event
from bridge.publisher.batch import Batch
from bridge.publisher.producer import DeliveryReport, OutgoingEvent, Sender
from bridge.telemetry.metrics import Metrics

CONFIRMED = SimpleNamespace(offset=7)
BUILDER = SimpleNamespace(record_count=lambda: 1)


def prepared(topic: str) -> OutgoingEvent:
    """Return an event for a topic."""
    event = Event(topic, b"key", b"{}", [], 0, "video.status.ready", f"id of {topic}")
    return OutgoingEvent(event, Delivery(0, "default", b"{}"))


async def judged(outcomes: dict[str, Any], *, stalled: bool = False) -> DeliveryReport:
    """Return the verdicts on one event for each topic, whose batch had this outcome; None: no answer."""
    batches = []
    for topic, outcome in outcomes.items():
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        elif outcome is not None:
            future.set_result(outcome)
        batches.append(Batch(topic, 0, BUILDER, future))
    sender = Sender(KafkaSettings(), Metrics())
    return sender._classify([prepared(topic) for topic in outcomes], batches, {}, stalled=stalled)


def topics(events: list[OutgoingEvent]) -> list[str]:
    """Return the topics of events."""
    return [each.event.topic for each in events]


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(),
        KafkaConnectionError(),
        KafkaTimeoutError(),
        NotEnoughReplicasError(),
        OutOfOrderSequenceNumber(),
        ProducerClosed(),
    ],
)
async def test_what_failed_is_sent_again(error: KafkaError) -> None:
    """A failure that is neither the topic's nor the event's own says nothing of what Kafka has: it is sent again."""
    verdicts = await judged({"a": CONFIRMED, "b": error})
    assert (topics(verdicts.sent), topics(verdicts.again)) == (["a"], ["b"])
    assert not verdicts.refused
    assert not verdicts.rejected


@pytest.mark.parametrize("stalled", [True, False])
async def test_what_got_no_answer_is_not_sent(*, stalled: bool) -> None:
    """Silence is no confirmation: beside others that were confirmed the topic is held back, or the event sent again."""
    verdicts = await judged({"a": CONFIRMED, "b": None}, stalled=stalled)
    assert topics(verdicts.sent) == ["a"]
    assert list(verdicts.refused) == (["b"] if stalled else [])
    assert topics(verdicts.again) == ([] if stalled else ["b"])
    assert topics((await judged({"b": None}, stalled=stalled)).again) == ["b"]


async def test_a_refusal_is_of_the_topic_or_of_the_event() -> None:
    """A topic that refuses holds its events back; an event that can never be taken is rejected, alone."""
    verdicts = await judged({"a": TopicAuthorizationFailedError(), "b": MessageSizeTooLargeError(), "c": CONFIRMED})
    assert list(verdicts.refused) == ["a"]
    assert [(each.event.topic, reason) for each, reason, _ in verdicts.rejected] == [("b", "too_large")]
    assert topics(verdicts.sent) == ["c"]
