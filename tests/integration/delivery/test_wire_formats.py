"""The wire formats from end to end: what the daemon publishes, read by Confluent's own client and by the tools."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import Daemon, wait_for
from tests.support.delivery_checker import header, read_all
from tests.support.fake_registry import Problem, StrictRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.brokers import Broker

ASSET = "5fd088e0a47da8246f1fb756"
READY = b'{"type": "video.status.ready", "asset_id": "%s", "progress": 100}' % ASSET.encode()
BODIES = {
    "video.status.ready": READY,
    "event.playlist.created": b'{"type": "event.playlist.created", "playlist_id": "p1"}',
    "unrecognized": b'{"type": "video.status.unheard_of", "asset_id": "a1"}',
    "dead-letter": b"no JSON",
}


@pytest.fixture
def played() -> Iterator[StrictRegistry]:
    """Play a registry."""
    with StrictRegistry() as registry:
        yield registry


def settings_of(url: str, wire_format: str, broker: Broker, prefix: str) -> dict[str, Any]:
    """Return the settings of a bridge that publishes in a wire format."""
    return {
        "registry_url": url,
        "registry_wire_format": wire_format,
        "kafka_bootstrap_servers": broker.bootstrap_servers,
        "topics_prefix": prefix,
        "topics_provision": "create",
    }


def daemon_of(directory: Path, settings: dict[str, Any]) -> Daemon:
    """Return a daemon with these settings."""
    more = {**settings}
    return Daemon(directory, more.pop("kafka_bootstrap_servers"), more.pop("topics_prefix"), **more)


async def register(settings: dict[str, Any], *types: str) -> None:
    """Register some schemas, or all."""
    ran = await bridge("schemas", "register", *(part for each in types for part in ("--type", each)), **settings)
    assert ran.code == 0, ran.err


def decoded(url: str, record: Any) -> Any:
    """Read a record as Confluent's client does, which looks up its schema and validates it."""
    with SchemaRegistryClient({"url": url}) as client:
        context = SerializationContext(record.topic, MessageField.VALUE, list(record.headers))
        return JSONDeserializer(None, schema_registry_client=client)(record.value, context)


async def publish_all(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Publish one event of each kind; return the records by the kind's name."""
    with daemon_of(directory, settings) as daemon:
        for body in BODIES.values():
            assert daemon.post(body).status == 200
        wait_for(daemon.drained, what="the events on Kafka")
    prefix = settings["topics_prefix"]
    topics = {prefix + name: name for name in BODIES}
    records = await read_all(settings["kafka_bootstrap_servers"], list(topics))
    found = {topics[record.topic]: record for record in records}
    assert found.keys() == BODIES.keys()
    return found


async def tools_read(settings: dict[str, Any], records: dict[str, Any]) -> None:
    """See that the tools show what they would show of plain records."""
    shown = await bridge("tail", "--since", "beginning", "--no-follow", **settings)
    assert shown.code == 0, shown.err
    assert {line["event"].get("type") for line in shown.lines} >= {"video.status.ready", "event.playlist.created"}
    story = await bridge("assets", "timeline", ASSET, "--json", **settings)
    assert [line["id"] for line in story.lines if line.get("id")] == [header(records["video.status.ready"], "ce_id")]
    (letter,) = (await bridge("dead-letter", "list", **settings)).lines
    assert (letter["id"], letter["reason"]) == (header(records["dead-letter"], "ce_id"), "invalid_json")


async def test_confluent_framing(broker: Broker, registry_url: str, prefix: str, tmp_path: Path) -> None:
    """Each record, dead letters too, begins with a zero byte and its schema's id; Confluent's client decodes it."""
    settings = settings_of(registry_url, "confluent", broker, prefix)
    await register(settings)
    ids = {line["event_type"]: line["id"] for line in (await bridge("schemas", "status", **settings)).lines}
    records = await publish_all(tmp_path, settings)
    for name, record in records.items():
        assert record.value[:5] == b"\x00" + ids[name].to_bytes(4, "big")
        assert decoded(registry_url, record) == orjson.loads(record.value[5:])
        assert header(record, "ce_dataschema") == f"urn:gumlet-kafka-bridge:{name}:1"
    await tools_read(settings, records)


async def test_guid_in_the_header(broker: Broker, played: StrictRegistry, prefix: str, tmp_path: Path) -> None:
    """Each record's value is its JSON, and a header has its schema's GUID; Confluent's client decodes it."""
    settings = settings_of(played.url, "header", broker, prefix)
    await register(settings)
    records = await publish_all(tmp_path, settings)
    for record in records.values():
        (mark,) = [value for name, value in record.headers if name == "__value_schema_id"]
        assert (len(mark), mark[0]) == (17, 1)
        assert decoded(played.url, record) == orjson.loads(record.value)
    await tools_read(settings, records)


async def test_plain_never_asks(embedded_broker: Broker, played: StrictRegistry, prefix: str, tmp_path: Path) -> None:
    """Without a wire format of the registry's, a configured registry is for the tools: the daemon never calls it."""
    records = await publish_all(tmp_path, settings_of(played.url, "plain", embedded_broker, prefix))
    for name, record in records.items():
        assert Contract.load().topics[name].first_violation(orjson.loads(record.value)) is None
        assert "__value_schema_id" not in dict(record.headers)
    assert played.seen == []


async def test_a_registry_that_is_away_is_waited_for(
    broker: Broker, played: StrictRegistry, prefix: str, tmp_path: Path
) -> None:
    """Deliveries get 200 and stay on disk, also over a crash; they are published once the registry responds."""
    settings = settings_of(played.url, "confluent", broker, prefix)
    await register(settings)
    played.stop()
    daemon = daemon_of(tmp_path, settings)
    with daemon:
        wait_for(lambda: daemon.logged("schema_registry_unreachable"), what="the log")
        assert daemon.post(b'{"type": "video.status.ready", "asset_id": "a0"}').status == 200
        wait_for(lambda: daemon.status()["journal"]["deliveries"] == 1, what="the event on disk")
    with daemon:  # after a crash
        wait_for(lambda: daemon.logged("schema_registry_unreachable"), what="the log")
        assert daemon.post(b'{"type": "video.status.ready", "asset_id": "a1"}').status == 200
        assert daemon.status()["journal"]["deliveries"] == 2
        played.start()
        wait_for(daemon.drained, what="the events on Kafka")
        assert len(daemon.logged("schema_registry_unreachable")) == len(daemon.logged("schema_registry_connected")) == 1
        asked = len(played.seen)
        played.stop()
        assert daemon.post(READY).status == 200
        wait_for(daemon.drained, what="an event while the registry is unavailable again")
        assert len(played.seen) == asked
    records = await read_all(broker.bootstrap_servers, [f"{prefix}video.status.ready"])
    assert sorted(record.key for record in records) == sorted([b"a0", b"a1", ASSET.encode()])
    assert {record.value[0] for record in records} == {0}


async def test_what_is_not_registered_waits_and_others_flow(
    broker: Broker, played: StrictRegistry, prefix: str, tmp_path: Path
) -> None:
    """The log says what to do; once it is done the events follow in their order, without a restart."""
    settings = settings_of(played.url, "confluent", broker, prefix)
    await register(settings, "video.status.created")
    with daemon_of(tmp_path, settings) as daemon:
        for number in range(3):
            assert (
                daemon.post(b'{"type": "video.status.ready", "asset_id": "a", "progress": %d}' % number).status == 200
            )
        assert daemon.post(b'{"type": "video.status.created", "asset_id": "a"}').status == 200
        wait_for(lambda: daemon.status()["journal"]["deliveries"] == 3, what="the topic that flows")
        (told,) = daemon.logged("schemas_not_registered")
        assert f"{prefix}video.status.ready-value" in told["subjects"]
        assert f"{prefix}video.status.created-value" not in told["subjects"]
        (refused,) = daemon.logged("topic_blocked")
        assert refused["fix"] == "gumlet-bridge schemas register"
        await register(settings, "video.status.ready")
        wait_for(daemon.drained, what="the events that waited")
        wait_for(lambda: daemon.logged("topic_unblocked"), what="the topic's log line")
    topics = [f"{prefix}video.status.{name}" for name in ("created", "ready")]
    records = await read_all(broker.bootstrap_servers, topics)
    events = [decoded(played.url, each) for each in records]
    assert [event["progress_percent"] for event in events if event["type"] == "video.status.ready"] == [0, 1, 2]
    assert [event["type"] for event in events].count("video.status.created") == 1


@pytest.mark.parametrize("fault", ["no GUID", "wrong credentials", "not a registry", "no rights"])
async def test_a_registry_that_can_never_work_ends_the_start(
    embedded_broker: Broker, prefix: str, tmp_path: Path, fault: str
) -> None:
    """What a retry cannot change ends the daemon with 78 and the setting to correct."""
    with StrictRegistry(guids=fault != "no GUID") as fake:
        settings = settings_of(fake.url, "header", embedded_broker, prefix)
        await register(settings, "video.status.ready")
        if fault == "wrong credentials":
            fake.bearer = "the-right-token"
            settings["registry_token"] = "another-token"
        elif fault == "not a registry":
            settings["registry_url"] = f"{fake.url}/nowhere"
        elif fault == "no rights":
            fake.problem = Problem(40301, "User is denied operation Read")
        daemon = daemon_of(tmp_path, settings)
        process = daemon.spawn()
        assert await asyncio.to_thread(process.wait, 60) == 78
        assert "BRIDGE_REGISTRY_WIRE_FORMAT=confluent" in daemon.log() or fault != "no GUID"
        assert fault == "no GUID" or fake.url in daemon.log()
        assert "Fix: " in daemon.log()
        assert "another-token" not in daemon.log()
        assert "Traceback" not in daemon.log()


async def test_a_registry_that_responds_wrongly_after_an_outage_does_not_end_the_daemon(
    embedded_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Deliveries are accepted and kept; the condition of the registry names the cause and the setting to correct."""
    with StrictRegistry() as fake:
        settings = settings_of(fake.url, "confluent", embedded_broker, prefix)
        await register(settings, "video.status.ready")
        fake.stop()
        with daemon_of(tmp_path, settings) as daemon:
            assert daemon.post(READY).status == 200
            await asyncio.to_thread(wait_for, lambda: daemon.logged("schema_registry_unreachable"), 60)
            fake.problem = Problem(40301, "User is denied operation Read")
            fake.start()
            await asyncio.to_thread(wait_for, lambda: "denied operation" in daemon.log(), 60)
            (registry,) = [each for each in daemon.status()["health"] if each["component"] == "registry"]
            assert registry["state"] == "failing"
            assert fake.url in registry["cause"]
            assert daemon.post(READY).status == 200
            assert daemon.status()["journal"]["deliveries"] == 2
            fake.problem = None
            await asyncio.to_thread(wait_for, daemon.drained, 60)


async def test_a_replayed_dead_letter_is_framed(broker: Broker, played: StrictRegistry, prefix: str) -> None:
    """A tool that publishes uses the daemon's wire format, and does not wait for an unavailable registry."""
    settings = settings_of(played.url, "confluent", broker, prefix)
    await register(settings)
    delivery = Delivery(int(time.time() * 1000), "films", READY)  # an older record is deleted by retention
    letter = Normalizer(Contract.load(prefix)).dead_letter(delivery, "schema_violation", "a schema that is fixed now")
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    await publish(kafka, [(letter, delivery)])
    ran = await bridge("dead-letter", "replay", **settings)
    assert ran.code == 0, ran.err
    (record,) = await read_all(broker.bootstrap_servers, [f"{prefix}video.status.ready"])
    assert record.value[0] == 0
    assert decoded(played.url, record)["asset_id"] == ASSET
    played.stop()
    away = await bridge("dead-letter", "replay", **settings)
    assert (away.code, away.out) == (1, "")
    assert "does not respond" in away.err
