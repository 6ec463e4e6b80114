"""`gumlet-bridge dead-letter`: list, show and export dead letters, and republish them once the cause is fixed."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bridge.config.sections import KafkaSettings
from bridge.contract.converters import rfc3339
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract, schemas_directory
from bridge.event import Delivery, canonical, content_id
from tests.support.brokers import EMBEDDED_IS_LONG
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import Daemon, wait_for
from tests.support.delivery_checker import header, read_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers import Broker

RECEIVED_MS = int(time.time() * 1000) - 3_600_000
"""Within what the topics keep: Kafka removes what is older in the middle of a test."""
READY: dict[str, Any] = {
    "type": "video.status.ready",
    "asset_id": "5fd088e0a47da8246f1fb756",
    "status": "ready",
    "title": "A title that is longer than a hasty schema allows",
}
BROKEN = b'{"type":'


def load_strict_contract(directory: Path, prefix: str) -> Contract:
    """Return a contract whose titles are at most five characters long."""
    shutil.copytree(schemas_directory(), directory / "schemas")
    path = directory / "schemas" / "video.status.ready.json"
    schema = orjson.loads(path.read_bytes())
    schema["properties"]["title"] = {"type": "string", "maxLength": 5}
    path.write_bytes(orjson.dumps(schema))
    return Contract.load(prefix, directory / "schemas")


@pytest.fixture
async def dead(broker: Broker, prefix: str, tmp_path: Path) -> dict[str, object]:
    """Publish two dead letters, one of a schema too strict and one of a broken body; return the settings."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    strict = Normalizer(load_strict_contract(tmp_path, prefix))
    deliveries = [
        Delivery(RECEIVED_MS, "films", orjson.dumps(READY)),
        Delivery(RECEIVED_MS + 60_000, "films", BROKEN),
    ]
    events = [(strict.event(each), each) for each in deliveries]
    assert {event.event_type for event, _ in events} == {"dead-letter"}
    await publish(kafka, events)
    return {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}


@EMBEDDED_IS_LONG
async def test_replay_publishes_what_a_fixed_schema_accepts(
    broker: Broker, prefix: str, dead: dict[str, object]
) -> None:
    """A delivery that a too strict schema rejected is published with its original id and receipt time."""
    dry = await bridge("dead-letter", "replay", "--reason", "schema_violation", "--dry-run", **dead)
    assert dry.code == 0, dry.err
    assert [line["outcome"] for line in dry.lines] == ["would be published"]
    topic = f"{prefix}video.status.ready"
    assert await read_all(broker.bootstrap_servers, [topic]) == []

    ran = await bridge("dead-letter", "replay", "--reason", "schema_violation", **dead)

    assert ran.code == 0, ran.err
    (record,) = await read_all(broker.bootstrap_servers, [topic])
    assert header(record, "ce_id") == content_id("films", canonical(READY)) == ran.lines[0]["id"]
    assert record.timestamp == RECEIVED_MS
    assert header(record, "ce_source").endswith("/films")
    assert record.key == READY["asset_id"].encode()
    assert orjson.loads(record.value)["title"] == READY["title"]


@EMBEDDED_IS_LONG
async def test_replay_keeps_id_key_and_time_of_a_daemons_dead_letter(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Received by a daemon with a too strict schema, replayed with the current one: id, key and time are kept."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    topic, dead_letter = f"{prefix}video.status.ready", f"{prefix}dead-letter"
    load_strict_contract(tmp_path, prefix)
    tree = tmp_path / "strict"
    shutil.copytree(schemas_directory().parent / "bridge", tree / "bridge")
    (tmp_path / "schemas").rename(tree / "schemas")
    daemon = Daemon(tmp_path, broker.bootstrap_servers, prefix, topics_provision="off")
    daemon.source_tree = tree
    with daemon:
        assert daemon.post(orjson.dumps(READY), "/webhooks/gumlet/films").status == 200
        wait_for(daemon.drained, what="the delivery reaches Kafka")
        assert daemon.stop() == 0
    assert await read_all(broker.bootstrap_servers, [topic]) == []
    (letter,) = await read_all(broker.bootstrap_servers, [dead_letter])
    settings: dict[str, object] = {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}

    ran = await bridge("dead-letter", "replay", **settings)

    assert ran.code == 0, ran.err
    (record,) = await read_all(broker.bootstrap_servers, [topic])
    assert header(record, "ce_id") == header(letter, "ce_id") == content_id("films", canonical(READY))
    assert record.timestamp == letter.timestamp
    assert header(record, "ce_time") == header(letter, "ce_time")
    assert (record.key, header(record, "ce_type")) == (letter.key, "com.gumlet.video.status.ready")


async def test_replay_warns_about_events_older_than_retention(embedded_broker: Broker, prefix: str) -> None:
    """The record time is the time of receipt, so Kafka would delete the event soon: the dry run says so."""
    kafka = KafkaSettings(bootstrap_servers=embedded_broker.bootstrap_servers)
    normalizer = Normalizer(Contract.load(prefix))
    delivery = Delivery(RECEIVED_MS - 8 * 24 * 3_600_000, "films", orjson.dumps(READY))
    await make_topics(embedded_broker, kafka, prefix)
    await publish(kafka, [(normalizer.dead_letter(delivery, "schema_violation", "a title too long"), delivery)])
    settings: dict[str, object] = {"kafka_bootstrap_servers": kafka.bootstrap_servers, "topics_prefix": prefix}
    ran = await bridge("dead-letter", "replay", "--dry-run", **settings)
    assert ran.code == 0, ran.err
    assert "older than its topic's retention" in ran.lines[0]["note"]


async def test_replay_reports_what_is_still_invalid(broker: Broker, prefix: str, dead: dict[str, object]) -> None:
    """A replay publishes what it can, creates no second dead letter for the rest, and ends with 1."""
    ran = await bridge("dead-letter", "replay", **dead)

    assert ran.code == 1
    assert sorted(line["outcome"] for line in ran.lines) == ["published", "still invalid"]
    assert len(await read_all(broker.bootstrap_servers, [f"{prefix}dead-letter"])) == 2


@EMBEDDED_IS_LONG
async def test_list_filters_by_time_type_asset_and_reason(dead: dict[str, object]) -> None:
    """Each filter selects the dead letters that it names; the list has no bodies."""
    listed = await bridge("dead-letter", "list", **dead)
    assert listed.code == 0, listed.err
    everything = listed.lines
    assert {line["reason"] for line in everything} == {"schema_violation", "invalid_json"}
    assert all("body" not in line and "body_base64" not in line for line in everything)
    between = rfc3339(RECEIVED_MS + 30_000)
    for arguments, expected in (
        (("--type", "video.status.ready"), ["schema_violation"]),
        (("--asset", READY["asset_id"]), ["schema_violation"]),
        (("--asset", "another"), []),
        (("--reason", "invalid_json"), ["invalid_json"]),
        (("--since", between), ["invalid_json"]),
        (("--until", between), ["schema_violation"]),
    ):
        ran = await bridge("dead-letter", "list", *arguments, **dead)
        assert ran.code == 0, ran.err
        assert [line["reason"] for line in ran.lines] == expected, arguments


async def test_show_and_list_with_body_include_the_body(dead: dict[str, object], tmp_path: Path) -> None:
    """`show` and `list --with-body` include the delivered body; an unknown id fails."""
    shown = await bridge("dead-letter", "show", content_id("films", canonical(READY)), **dead)
    assert shown.code == 0, shown.err
    assert orjson.loads(shown.out)["body"] == READY
    file = tmp_path / "letters.jsonl"
    exported = await bridge("dead-letter", "list", "--with-body", "--output", str(file), **dead)
    assert exported.code == 0, exported.err
    bodies = [orjson.loads(line)["body"] for line in file.read_bytes().splitlines()]
    assert READY in bodies
    assert BROKEN.decode() in bodies
    missing = await bridge("dead-letter", "show", "nothing", **dead)
    assert missing.code == 1
    assert "gumlet-bridge dead-letter list" in missing.err


async def test_unreachable_kafka_and_missing_topic_name_the_fix(broker: Broker, prefix: str) -> None:
    """An unreachable Kafka and a missing topic end the command with the setting to fix."""
    away = await bridge("dead-letter", "list", kafka_bootstrap_servers="127.0.0.1:1")
    assert away.code == 1
    assert "127.0.0.1:1 refused the connection" in away.err
    empty = await bridge("dead-letter", "list", kafka_bootstrap_servers=broker.bootstrap_servers, topics_prefix=prefix)
    assert empty.code == 1
    assert "BRIDGE_TOPICS_PREFIX" in empty.err
