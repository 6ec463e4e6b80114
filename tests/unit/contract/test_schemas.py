"""The contract's files: that they are complete, documented and agree with the mappings."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema_rs
import msgspec
import orjson
import pytest
from hypothesis import example, given

from bridge.contract import schemas as contract_module
from bridge.contract.mappings import MAPPINGS
from bridge.contract.schemas import Contract, schemas_directory
from bridge.errors import ContractError

if TYPE_CHECKING:
    pass
from tests.unit.contract.schema_files import (
    COMMON,
    CONTRACT,
    DAY_MS,
    IN_THE_FORM_OF_A_TIME,
    TIMES,
    accepts_time,
    edit,
    properties,
    sources,
)


def test_every_type_that_is_documented_has_a_topic() -> None:
    """The types that Gumlet documents, the dead letters and the unrecognized: named after their types."""
    video = ["created", "downloaded", "ready", "errored", "deleted", "repackaged", "stream-ready", "optimized"]
    video.append("processed")
    live = ["created", "ready", "preparing", "connected", "active", "complete", "disconnected"]
    product = [
        "embed.viewed",
        "embed.cta-clicked",
        "embed.form-submitted",
        "video.updated",
        "video.uploaded",
        "video.analytics",
        "image.analytics",
        "playlist.created",
        "playlist.asset",
        "playlist.deleted",
        "comment.all",
        "channel.member-joined",
    ]
    assert {topic.name for topic in CONTRACT.topics.values()} == {
        *(f"gumlet.video.status.{name}" for name in video),
        *(f"gumlet.live.video.status.{name}" for name in live),
        *(f"gumlet.event.{name}" for name in product),
        "gumlet.dead-letter",
        "gumlet.unrecognized",
    }


def test_a_topic_is_defined_by_its_file() -> None:
    """Key, partitions, configuration and version come from x-topic."""
    topic = CONTRACT.topics["video.status.stream_ready"]
    assert topic.dataschema == "urn:gumlet-kafka-bridge:video.status.stream_ready:1"
    assert (topic.key, topic.partitions) == ("asset_id", 6)
    assert topic.config == {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
    assert topic.path == schemas_directory() / "video.status.stream_ready.json"
    assert topic.schema["title"] == "Video stream ready"
    assert (CONTRACT.dead_letter.key, CONTRACT.unrecognized.key) == ("asset_id", None)
    for own in (CONTRACT.dead_letter, CONTRACT.unrecognized):
        assert own.config["retention.ms"] == str(30 * DAY_MS)


def test_the_prefix_begins_each_name() -> None:
    """Only the name in Kafka changes with the prefix."""
    topics = Contract.load("acme_video.").topics
    assert topics["video.status.ready"].name == "acme_video.video.status.ready"
    assert topics["video.status.ready"].dataschema == "urn:gumlet-kafka-bridge:video.status.ready:1"


def test_a_new_version_is_a_new_topic(directory: Path) -> None:
    """From version 2 on the topic's name ends with the version, and ce_dataschema has it."""
    edit(directory / "video.status.ready.json", x_topic={"version": 2})
    topic = Contract.load(directory=directory).topics["video.status.ready"]
    assert (topic.name, topic.version) == ("gumlet.video.status.ready.v2", 2)
    assert topic.dataschema == "urn:gumlet-kafka-bridge:video.status.ready:2"


def test_an_installed_package_has_its_own_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory inside the package has precedence over the one next to it."""
    (tmp_path / "bridge").mkdir()
    monkeypatch.setattr(contract_module, "__file__", str(tmp_path / "bridge" / "contract" / "schemas.py"))
    assert schemas_directory() == tmp_path / "schemas"
    (tmp_path / "bridge" / "schemas").mkdir()
    assert schemas_directory() == tmp_path / "bridge" / "schemas"


@pytest.mark.parametrize("event_type", sorted(CONTRACT.topics))
def test_a_schema_is_closed_documented_and_has_examples(event_type: str) -> None:
    """Each object of ours is closed, each property is described, and every example validates."""
    topic = CONTRACT.topics[event_type]
    jsonschema_rs.meta.validate(topic.schema)
    assert topic.schema["$id"] == topic.path.name
    assert topic.schema["title"]
    assert topic.schema["description"]
    assert topic.schema["additionalProperties"] is False
    assert len(topic.schema["examples"]) >= 2
    for record in topic.schema["examples"]:
        assert topic.first_violation(record) is None
    for pointer, schema in properties(topic.schema):
        assert schema["title"], pointer
        assert schema["description"], pointer
        assert "x-source" in schema, pointer
        assert "enum" not in schema, pointer
        if "properties" in schema:
            assert schema["additionalProperties"] is False, pointer
        for value in schema.get("examples", []):
            name = pointer.rpartition("/")[2]
            alone = {"$id": "alone.json", "$defs": COMMON["$defs"], "properties": {name: schema}}
            assert jsonschema_rs.Draft202012Validator(alone).is_valid({name: value}), pointer


@pytest.mark.parametrize("event_type", sorted(MAPPINGS))
def test_a_schema_and_its_mapping_agree(event_type: str) -> None:
    """Each property has the source that its x-source names, and the mapping sets no other."""
    documented = {pointer: schema["x-source"] for pointer, schema in properties(CONTRACT.topics[event_type].schema)}
    assert (documented.pop("/additional"), documented.pop("/body_base64")) == ("", "")
    for part in ("numerator", "denominator"):  # made of one delivered value, by one rule
        assert documented.pop(f"/input/frame_rate/{part}", "/input/fps") == "/input/fps"
    assert documented == dict(sources(MAPPINGS[event_type]))


@given(TIMES | IN_THE_FORM_OF_A_TIME)
@example("2016-12-31T23:59:60.000Z")
@example("0000-01-01T00:00:00.000Z")
@example("2024-02-29T24:00:00.000Z")
def test_every_time_that_the_validator_accepts_can_be_decoded(text: str) -> None:
    """What the validator accepts, `datetime` and msgspec decode: to the same moment."""
    if accepts_time(text):
        parsed = datetime.fromisoformat(text)
        assert msgspec.json.decode(orjson.dumps(text), type=datetime) == parsed
        assert parsed.isoformat(timespec="milliseconds").replace("+00:00", "Z") == text


@given(TIMES)
def test_the_validator_accepts_every_time_that_exists(text: str) -> None:
    """From the year 1 to the year 9999."""
    assert accepts_time(text)


@pytest.mark.parametrize(
    "text", ["2023-02-29T00:00:00.000Z", "2016-12-31T23:59:60.000Z", "0000-01-01T00:00:00.000Z", "2024-01-01T00:00:00Z"]
)
def test_the_validator_rejects_a_time_that_does_not_exist(text: str) -> None:
    """`format` is asserted, by the same definition that the converters use."""
    assert not accepts_time(text)


def test_two_files_of_one_topic_are_an_error(directory: Path) -> None:
    """`_` becomes `-`: two types may not share a topic."""
    twin = directory / "video.status.stream-ready.json"
    shutil.copy(directory / "video.status.stream_ready.json", twin)
    edit(twin, x_topic={"event_type": "video.status.stream-ready"}, **{"$id": twin.name})
    with pytest.raises(ContractError, match=r"name the same topic, gumlet\.video\.status\.stream-ready"):
        Contract.load(directory=directory)
