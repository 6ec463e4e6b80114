"""Fixtures of the publisher's tests."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.kafka.metadata import TopicState
from bridge.publisher import blocked_topics, kafka_producer, publisher, sending, unconfirmed
from tests.unit.publisher.fake_kafka import FakeKafka
from tests.unit.publisher.queues import TOPICS


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    """Return a Kafka with the topics a and b, which producers connect to."""
    fake = FakeKafka("a", "b")

    async def states(_client: Any, topics: Any, _seconds: float = 0) -> dict[str, TopicState]:
        available = TopicState("available", 1)
        return {
            topic: TopicState("missing", detail=fake.states.get(topic, "missing"))
            if topic in fake.states or topic not in fake.topics
            else available
            for topic in topics
        }

    monkeypatch.setattr(kafka_producer, "KafkaProducer", fake.producer)
    monkeypatch.setattr(sending, "topic_state", states)
    monkeypatch.setattr(unconfirmed, "topic_state", states)
    monkeypatch.setattr(sending, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(unconfirmed, "CHECK_SECONDS", 0.01)
    return fake


@pytest.fixture
def known_topics(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Kafka the topics of the contract, and retries a short pause."""
    kafka.topics = set(TOPICS)
    monkeypatch.setattr(blocked_topics, "backoff", lambda _: 0.01)
    monkeypatch.setattr(publisher, "backoff", lambda _: 0.01)
