"""`bridge dead-letter`: found, understood, exported, and published once the cause is mended."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bridge.config_sections import KafkaSettings
from bridge.contract import Contract, schemas_directory
from bridge.event import Delivery, canonical, content_id
from bridge.normalize import Normalizer
from tests.checker import header, read_all
from tests.tools import bridge, make_topics, publish

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker

RECEIVED_MS = 1_790_000_000_123
"""Any time in the past of the machine that runs this is as good."""
READY: dict[str, Any] = {
    "type": "video.status.ready",
    "asset_id": "5fd088e0a47da8246f1fb756",
    "status": "ready",
    "title": "A title that is longer than a hasty schema allows",
}
BROKEN = b'{"type":'


def too_strict(directory: Path, prefix: str) -> Contract:
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
    strict = Normalizer(too_strict(tmp_path, prefix))
    deliveries = [
        Delivery(RECEIVED_MS, "films", orjson.dumps(READY)),
        Delivery(RECEIVED_MS + 60_000, "films", BROKEN),
    ]
    events = [(strict.event(each), each) for each in deliveries]
    assert {event.event_type for event, _ in events} == {"dead-letter"}
    await publish(kafka, events)
    return {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}


async def test_replay_after_the_schema_is_mended(broker: Broker, prefix: str, dead: dict[str, object]) -> None:
    """What a schema too strict refused arrives on its topic, with its original id and receipt time."""
    rehearsed = await bridge("dead-letter", "replay", "--reason", "schema_violation", "--dry-run", **dead)
    assert rehearsed.code == 0, rehearsed.err
    assert [line["outcome"] for line in rehearsed.lines] == ["would be published"]
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


async def test_what_is_still_dead_stays_and_is_told(broker: Broker, prefix: str, dead: dict[str, object]) -> None:
    """A replay publishes what it can, makes no second dead letter of the rest, and ends with 1."""
    ran = await bridge("dead-letter", "replay", **dead)

    assert ran.code == 1
    assert sorted(line["outcome"] for line in ran.lines) == ["published", "still dead"]
    assert len(await read_all(broker.bootstrap_servers, [f"{prefix}dead-letter"])) == 2


async def test_filters_choose_by_time_type_asset_reason(dead: dict[str, object]) -> None:
    """Each filter chooses what it says, and a list has no bodies."""
    everything = (await bridge("dead-letter", "list", **dead)).lines
    assert {line["reason"] for line in everything} == {"schema_violation", "invalid_json"}
    assert all("body" not in line and "body_base64" not in line for line in everything)
    between = ("2026-09-21T14:13:50Z", "2026-09-21T14:14:00Z")
    for arguments, expected in (
        (("--type", "video.status.ready"), ["schema_violation"]),
        (("--asset", READY["asset_id"]), ["schema_violation"]),
        (("--asset", "another"), []),
        (("--reason", "invalid_json"), ["invalid_json"]),
        (("--since", between[0]), ["invalid_json"]),
        (("--until", between[1]), ["schema_violation"]),
    ):
        ran = await bridge("dead-letter", "list", *arguments, **dead)
        assert [line["reason"] for line in ran.lines] == expected, arguments


async def test_show_and_export_have_the_body(dead: dict[str, object], tmp_path: Path) -> None:
    """A dead letter is shown by its id, and exported, with what Gumlet sent; an unknown id fails."""
    shown = await bridge("dead-letter", "show", content_id("films", canonical(READY)), **dead)
    assert shown.code == 0, shown.err
    assert orjson.loads(shown.out)["body"] == READY
    file = tmp_path / "letters.jsonl"
    exported = await bridge("dead-letter", "export", "-o", str(file), **dead)
    assert exported.code == 0, exported.err
    bodies = [orjson.loads(line)["body"] for line in file.read_bytes().splitlines()]
    assert READY in bodies
    assert BROKEN.decode() in bodies
    missing = await bridge("dead-letter", "show", "nothing", **dead)
    assert missing.code == 1
    assert "bridge dead-letter list" in missing.err


async def test_no_kafka_no_topic(broker: Broker, prefix: str) -> None:
    """A Kafka that does not answer, and one without the topic, each end the command with what to do."""
    away = await bridge("dead-letter", "list", kafka_bootstrap_servers="127.0.0.1:1")
    assert away.code == 1
    assert "BRIDGE_KAFKA_BOOTSTRAP_SERVERS" in away.err
    empty = await bridge("dead-letter", "list", kafka_bootstrap_servers=broker.bootstrap_servers, topics_prefix=prefix)
    assert empty.code == 1
    assert "BRIDGE_TOPICS_PREFIX" in empty.err
