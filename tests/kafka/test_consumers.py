"""The consumers of `schemas/consumers/`, unchanged, on Apache Kafka: each event is handled once despite duplicates."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract, schemas_directory
from bridge.event import Delivery, Event
from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from tests.support.brokers.apache import java
from tests.support.daemon import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from tests.support.brokers import Broker

CONSUMERS = schemas_directory() / "consumers"
TYPES = [f"video.status.{name}" for name in ("created", "ready", "errored", "deleted")]


class Program:
    """A consumer in a process of its own, with its output."""

    def __init__(self, command: list[str | Path], output: Path) -> None:
        self._output = output
        self._errors = output.with_suffix(".err")
        with output.open("ab") as out, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=out, stderr=errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def printed(self) -> list[dict[str, Any]]:
        """Return the complete lines so far."""
        assert self.process.poll() is None, self._errors.read_text()
        return [
            orjson.loads(line) for line in self._output.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
        ]

    def wait_for(self, event: Event) -> None:
        """Wait until an event was handled."""
        wait_for(lambda: event.id in [line["id"] for line in self.printed()], 60, "the event's line")

    def stop(self) -> None:
        """Stop it as a supervisor does, and check its exit code."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (0, 143), self._errors.read_text()


@pytest.fixture
def normalizer(prefix: str) -> Normalizer:
    """Return the normalizer of the contract, under this test's topics."""
    return Normalizer(Contract.load(prefix))


def build_event(
    normalizer: Normalizer, name: str, asset: str, received_ms: int = 1_700_000_000_000, **fields: Any
) -> Event:
    """Return the event of a webhook."""
    body = orjson.dumps({"type": f"video.status.{name}", "asset_id": asset} | fields)
    return normalizer.event(Delivery(received_ms, "default", body))


async def make_topics(broker: Broker, prefix: str) -> list[str]:
    """Create the topics, and return their names."""
    names = [prefix + name for name in TYPES]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 2, 1) for name in names])
    finally:
        await admin.close()
    return names


async def publish(broker: Broker, *events: Event) -> None:
    """Publish events, one after another."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all") as producer:
        for event in events:
            await producer.send_and_wait(
                event.topic, event.value, event.key, headers=event.headers, timestamp_ms=event.received_ms
            )


async def publish_tombstone(broker: Broker, event: Event) -> None:
    """Publish a tombstone with an event's key."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all") as producer:
        await producer.send_and_wait(event.topic, None, event.key)


def python(broker: Broker, directory: Path, topics: list[str]) -> list[str | Path]:
    """Return the command of the Python consumer."""
    program = CONSUMERS / "python" / "consumer.py"
    return [sys.executable, program, broker.bootstrap_servers, directory / "assets.sqlite", *topics]


def java_(broker: Broker, directory: Path, topics: list[str]) -> list[str | Path]:
    """Return the command of the Java consumer, with the jars that Kafka itself runs on."""
    del directory
    return [java()[0], CONSUMERS / "java" / "Consumer.java", broker.bootstrap_servers, *topics]


@pytest.fixture(params=["python", "java"])
def command(request: pytest.FixtureRequest) -> Callable[[Broker, Path, list[str]], list[str | Path]]:
    """Return each consumer's command in turn."""
    if request.param == "python":
        return python
    jars: Path = request.getfixturevalue("kafka_libraries")

    def with_jars(broker: Broker, directory: Path, topics: list[str]) -> list[str | Path]:
        program, *rest = java_(broker, directory, topics)
        return [program, "-cp", f"{jars}/*", *rest]

    return with_jars


async def test_a_consumer_handles_each_event_once(
    apache_kafka: Broker,
    prefix: str,
    normalizer: Normalizer,
    tmp_path: Path,
    command: Callable[[Broker, Path, list[str]], list[str | Path]],
) -> None:
    """Duplicates have no effect; tombstones, wire formats and unknown properties are handled; a restart continues."""
    topics = await make_topics(apache_kafka, prefix)
    first = build_event(normalizer, "ready", "a1", new_field={"x": 1})
    second = build_event(normalizer, "ready", "a1", progress=100)
    last = build_event(normalizer, "ready", "a1", title="last")
    await publish(apache_kafka, first, second._replace(value=encode_id_prefix(7) + second.value), first)
    await publish_tombstone(apache_kafka, first)
    guid = encode_guid_header("00112233-4455-6677-8899-aabbccddeeff")
    await publish(apache_kafka, second, last._replace(headers=[*last.headers, guid]))
    with Program(command(apache_kafka, tmp_path, topics), tmp_path / "out") as program:
        program.wait_for(last)
        assert [line["id"] for line in program.printed()] == [first.id, second.id, last.id]
        assert {line["type"] for line in program.printed()} == {"video.status.ready"}
        program.stop()
    after = build_event(normalizer, "ready", "a1", title="after the restart")
    await publish(apache_kafka, after, after)
    with Program(command(apache_kafka, tmp_path, topics), tmp_path / "out") as program:
        program.wait_for(after)
        assert [line["id"] for line in program.printed()] == [first.id, second.id, last.id, after.id]
        program.stop()


async def test_a_state_only_moves_forward(
    apache_kafka: Broker, prefix: str, normalizer: Normalizer, tmp_path: Path
) -> None:
    """The Python consumer: late events have no effect, a deletion is final, ids of duplicates survive a restart."""
    topics = await make_topics(apache_kafka, prefix)
    marker = build_event(normalizer, "created", "marker")
    ready, late = build_event(normalizer, "ready", "a1"), build_event(normalizer, "created", "a1")
    with Program(python(apache_kafka, tmp_path, topics), tmp_path / "out") as program:
        reprocessed = build_event(normalizer, "ready", "a3", 1_700_000_002_000)
        errored = build_event(normalizer, "errored", "a3", 1_700_000_001_000)
        deleted, revived = build_event(normalizer, "deleted", "a2"), build_event(normalizer, "ready", "a2")
        for event in (ready, late, deleted, revived, reprocessed, errored, marker):
            await publish(apache_kafka, event)
            program.wait_for(event)
        program.stop()
    # An event that was handled before the restart is a duplicate after it.
    await publish(apache_kafka, ready)
    again = build_event(normalizer, "ready", "a1", progress=100)
    await publish(apache_kafka, again)
    with Program(python(apache_kafka, tmp_path, topics), tmp_path / "out") as program:
        program.wait_for(again)
        assert [line["id"] for line in program.printed()].count(ready.id) == 1
        program.stop()
    database = sqlite3.connect(tmp_path / "assets.sqlite")
    states = dict(database.execute("SELECT id, json_extract(record, '$.type') FROM asset"))
    database.close()
    assert states == {
        "a1": "video.status.ready",
        "a2": "video.status.deleted",
        "a3": "video.status.ready",  # received after the error, though it was read first
        "marker": "video.status.created",
    }
