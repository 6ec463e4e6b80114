"""The state of topics is read without creating any, on a Kafka that creates topics on request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]  # re-exported without declaring it

from bridge.config.sections import KafkaSettings
from bridge.kafka.connection import kafka_client
from bridge.kafka.metadata import STATE_SECONDS, TopicState, request_creation, topic_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.brokers import Broker
    from tests.support.brokers.guarded import GuardedKafka


@pytest.fixture
async def admin(guarded_kafka: GuardedKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect as the administrator."""
    client = AIOKafkaAdminClient(bootstrap_servers=guarded_kafka.node.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


async def state_of(kafka: KafkaSettings, topic: str) -> TopicState:
    """Return one topic's state."""
    async with kafka_client(kafka) as client:
        return (await topic_state(client, [topic]))[topic]


async def test_a_missing_topic_is_not_created(
    guarded_kafka: GuardedKafka, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A Kafka with auto.create.topics.enable=true has no new topic after its state was read."""
    settings = KafkaSettings(bootstrap_servers=guarded_kafka.node.bootstrap_servers)
    for _ in range(2):
        state = await state_of(settings, prefix + "x")
        assert state.status == "missing"
        assert "topics apply" in state.detail
    await asyncio.sleep(0.5)
    assert prefix + "x" not in await admin.list_topics()
    await admin.describe_topics([prefix + "x"])  # the control: Kafka would have created it
    while prefix + "x" not in await admin.list_topics():  # noqa: ASYNC110 - Kafka sends no notification
        await asyncio.sleep(0.05)


async def test_each_missing_right_is_named(
    guarded_kafka: GuardedKafka, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A user without rights, with Describe, and with Write gets three different states."""
    await admin.create_topics([NewTopic(prefix + "x", 2, 1)])
    kafka = guarded_kafka.user()
    state = await state_of(kafka, prefix + "x")
    assert (state.status, state.writable) == ("unauthorized", None)
    assert "Describe" in state.detail
    guarded_kafka.allow(prefix, AclOperation.DESCRIBE)
    state = await state_of(kafka, prefix + "x")
    assert (state.status, state.writable, state.partitions) == ("unauthorized", False, 2)
    assert "--operation Write" in state.detail
    guarded_kafka.allow(prefix, AclOperation.WRITE)
    assert await state_of(kafka, prefix + "x") == TopicState("available", 2, 1, writable=True)
    assert (await state_of(kafka, prefix + "y")).status == "missing"


async def test_an_embedded_broker_creates_topics_only_on_request(embedded_broker: Broker, prefix: str) -> None:
    """The embedded broker reports a missing topic as missing, and creates it by `request_creation`."""
    async with kafka_client(KafkaSettings(bootstrap_servers=embedded_broker.bootstrap_servers)) as client:
        assert (await topic_state(client, [prefix + "x"]))[prefix + "x"].status == "missing"
        assert (await topic_state(client, [prefix + "x"]))[prefix + "x"].status == "missing"
        await request_creation(client, [prefix + "x"])
        assert (await topic_state(client, [prefix + "x"]))[prefix + "x"].status == "available"


async def test_a_broker_that_ends_is_an_error_within_the_limit(guarded_kafka: GuardedKafka) -> None:
    """A frozen broker raises TimeoutError within the time limit, and answers again afterwards."""
    settings = KafkaSettings(bootstrap_servers=guarded_kafka.node.bootstrap_servers)
    async with kafka_client(settings) as client:
        guarded_kafka.node.freeze()
        try:
            with pytest.raises((KafkaError, OSError, TimeoutError)):
                async with asyncio.timeout(10 * STATE_SECONDS):
                    await topic_state(client, ["x"], 0.5)
        finally:
            guarded_kafka.node.thaw()
        assert (await topic_state(client, ["x"], 30))["x"].status == "missing"
