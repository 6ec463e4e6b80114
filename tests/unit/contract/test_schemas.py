"""The contract's files: that they are complete, and that an error names the file and its cause."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.contract import schemas as contract_module
from bridge.contract.mappings import MAPPINGS
from bridge.contract.schemas import Contract, schemas_directory
from bridge.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.object_mapping import ObjectMapping

CONTRACT = Contract.load()
COMMON = orjson.loads((schemas_directory() / "common.json").read_bytes())
DAY_MS = 86_400_000
INTERNAL_KEYWORDS = {"dead-letter", "unrecognized"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a reference to the shared definitions."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    assert reference.startswith(("common.json#/$defs/", "#/$defs/"))
    target = COMMON["$defs"][reference.rpartition("/")[2]]
    assert isinstance(target, dict)
    return resolved(target)


def properties(schema: dict[str, Any], pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every property of a schema and those below it, each with its pointer into the record."""
    for name, reference in schema.get("properties", {}).items():
        found = resolved(reference)
        yield f"{pointer}/{name}", found
        yield from properties(found, f"{pointer}/{name}")
        if "items" in found:
            yield from properties(resolved(found["items"]), f"{pointer}/{name}/0")


def sources(mapping: ObjectMapping, record: str = "", delivered: str = "") -> Iterator[tuple[str, str]]:
    """Yield the pointers into the record and the body that a mapping connects."""
    for raw, rule in mapping.rules.items():
        for name in rule.names:
            yield f"{record}/{name}", f"{delivered}/{raw}"
            if rule.inner is not None:
                index = "/0" if name == "warnings" else ""
                yield from sources(rule.inner, f"{record}/{name}{index}", f"{delivered}/{raw}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a copy of the contract's directory, to be changed."""
    return Path(shutil.copytree(schemas_directory(), tmp_path / "schemas"))


def edit(path: Path, **changes: Any) -> None:
    """Change top-level members of a schema file, or of its x-topic block (`x_topic`)."""
    schema = orjson.loads(path.read_bytes())
    schema["x-topic"] |= changes.pop("x_topic", {})
    path.write_bytes(orjson.dumps(schema | changes))


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


def test_one_violation_is_reported_and_hides_the_value() -> None:
    """Of several violations one is reported, with its pointer and what was expected."""
    topic = CONTRACT.topics["video.status.ready"]
    record = {"type": "video.status.ready", "asset_id": "a", "tags": [], "warnings": []}
    assert topic.first_violation(record) is None
    assert topic.first_violation(record | {"input": {"size_bytes": "s3cret"}}) == (
        "/input/size_bytes",
        'the value is not of type "integer"',
    )
    violation = topic.first_violation(record | {"title": 1, "input": {"size_bytes": "s3cret"}})
    assert violation is not None
    assert violation.pointer in {"/title", "/input/size_bytes"}
    assert topic.first_violation(record | {"a/b~c": 1}) is not None
    assert topic.first_violation({"type": "video.status.ready", "tags": [], "warnings": []}) == (
        "/asset_id",
        '"asset_id" is a required property',
    )


TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat(timespec="milliseconds")[:23] + "Z")
IN_THE_FORM_OF_A_TIME = st.from_regex(re.compile(COMMON["$defs"]["created_at"]["pattern"], re.ASCII), fullmatch=True)


def accepts_time(text: str) -> bool:
    """Whether a record with this time is valid."""
    record = {"type": "video.status.ready", "asset_id": "a", "tags": [], "warnings": [], "created_at": text}
    return CONTRACT.topics["video.status.ready"].first_violation(record) is None


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


@pytest.mark.parametrize("name", ["dead-letter.json", "unrecognized.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    """Without the bridge's own topics there is no contract."""
    (directory / name).unlink()
    with pytest.raises(ContractError, match=rf"{name} is missing"):
        Contract.load(directory=directory)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """The message has the path where the files were looked for."""
    with pytest.raises(ContractError, match=r"nowhere/dead-letter\.json is missing"):
        Contract.load(directory=tmp_path / "nowhere")


@pytest.mark.parametrize(("content", "message"), [(b"{", "is not JSON"), (b"[]", "is not a JSON object")])
def test_a_file_that_is_not_a_json_object_is_named(directory: Path, content: bytes, message: str) -> None:
    """The message has the file and the error."""
    (directory / "video.status.ready.json").write_bytes(content)
    with pytest.raises(ContractError, match=rf"video\.status\.ready\.json {message}"):
        Contract.load(directory=directory)


def test_a_file_that_cannot_be_read_is_named(directory: Path) -> None:
    """The message has the system's error."""
    (directory / "odd.json").mkdir()
    with pytest.raises(ContractError, match=r"odd\.json cannot be read: Is a directory"):
        Contract.load(directory=directory)


def test_a_file_without_its_topic_is_named(directory: Path) -> None:
    """A schema without an x-topic block is an error."""
    (directory / "other.json").write_bytes(b'{"type":"object"}')
    with pytest.raises(ContractError, match=r"other\.json has no x-topic block"):
        Contract.load(directory=directory)


@pytest.mark.parametrize(
    ("x_topic", "message"),
    [
        ({"event_type": "video.status.new"}, "event_type is 'video.status.new'"),
        ({"event_type": None}, "event_type must be str"),
        ({"version": "1"}, "version must be int"),
        ({"version": True}, "version must be int"),
        ({"version": 0}, "version is 0"),
        ({"key": 5}, "key must be str or null"),
        ({"key": "nowhere"}, "'nowhere', which is not a property"),
        ({"partitions": 0}, "partitions is 0"),
        ({"partitions": "6"}, "partitions must be int or null"),
        ({"config": None}, "config must be dict"),
        ({"config": {"retention.ms": 5}}, "every value of x-topic.config"),
    ],
)
def test_an_invalid_topic_block_is_named(directory: Path, x_topic: dict[str, Any], message: str) -> None:
    """Each member of x-topic is checked, and named with what it must be."""
    edit(directory / "video.status.ready.json", x_topic=x_topic)
    with pytest.raises(ContractError, match=rf"video\.status\.ready\.json: .*{message}"):
        Contract.load(directory=directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "nonsense"}, "is not a valid schema: /type"),
        ({"pattern": "("}, "is not a valid schema: /pattern"),
        ({"$ref": "common.json#/$defs/nowhere"}, "is not a valid schema: .*nowhere"),
        ({"not": {"$ref": "missing.json"}}, r"refers to missing\.json, which is not in /"),
        (
            {"not": {"$ref": "https://example.invalid/common.json"}},
            "refers to https://example.invalid/common.json, which is not in /",
        ),
        ({"not": {"$ref": "urn:example:common"}}, "refers to urn:example:common, which is not in /"),
    ],
)
def test_an_invalid_schema_is_named(directory: Path, change: dict[str, Any], message: str) -> None:
    """An invalid schema and a reference to nothing are found at once; nothing is fetched."""
    edit(directory / "video.status.ready.json", **change)
    with pytest.raises(ContractError, match=rf"video\.status\.ready\.json {message}"):
        Contract.load(directory=directory)


@pytest.mark.parametrize("prefix", ["gum let.", "x" * 240, "ä"])
def test_a_topic_name_that_kafka_rejects_is_an_error(prefix: str) -> None:
    """A topic's name is checked when the contract is loaded."""
    with pytest.raises(ContractError, match="cannot be the name of a Kafka topic"):
        Contract.load(prefix)


def test_two_files_of_one_topic_are_an_error(directory: Path) -> None:
    """`_` becomes `-`: two types may not share a topic."""
    twin = directory / "video.status.stream-ready.json"
    shutil.copy(directory / "video.status.stream_ready.json", twin)
    edit(twin, x_topic={"event_type": "video.status.stream-ready"}, **{"$id": twin.name})
    with pytest.raises(ContractError, match=r"name the same topic, gumlet\.video\.status\.stream-ready"):
        Contract.load(directory=directory)
