"""Starting and closing aiokafka's producer: after `close` nothing of it is left, whatever Kafka does."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiokafka.errors import KafkaError

from bridge.config.sections import KafkaSettings
from bridge.publisher import kafka_producer
from bridge.publisher.kafka_producer import KafkaProducer


async def test_close_ends_every_task_while_kafka_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that accepts connections and never responds does not hold up `close`, and no task of aiokafka is left.

    This fails when aiokafka starts its tasks in a way that their owner is not recorded.
    """
    monkeypatch.setattr(kafka_producer, "START_SECONDS", 0.1)
    monkeypatch.setattr(kafka_producer, "STOP_SECONDS", 0.2)
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        producer = KafkaProducer(KafkaSettings(bootstrap_servers=f"127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises((TimeoutError, KafkaError)):
            await producer.start()
        await asyncio.wait_for(producer.close(), 5)
    assert asyncio.all_tasks() == before


async def test_task_factory_leaves_the_tasks_of_others_alone() -> None:
    """Tasks that no producer starts have no owner: closing a producer does not cancel them."""
    producer = KafkaProducer(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    other = asyncio.create_task(asyncio.sleep(30))
    with pytest.raises(KafkaError):
        await producer.start()
    another = asyncio.create_task(asyncio.sleep(30))
    await producer.close()
    assert not other.cancelled()
    assert not other.cancelling()
    assert not another.cancelling()
    other.cancel()
    another.cancel()
