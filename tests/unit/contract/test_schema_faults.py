"""Faults in the contract's files are named, and so is a violation of a schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bridge.contract.schemas import Contract
from bridge.errors import ContractError

if TYPE_CHECKING:
    pass
from tests.unit.contract.schema_files import CONTRACT, edit


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
