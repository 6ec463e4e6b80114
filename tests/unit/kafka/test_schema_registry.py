"""The client of a schema registry, and what it registers, against a registry that takes the documentation literally."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson
import pytest
from pydantic import SecretStr

from bridge.config.sections import RegistrySettings
from bridge.contract.schemas import COMMON, Contract, schemas_directory
from bridge.errors import ConfigError, RegistryError, RegistryIncompatible
from bridge.kafka.schema_registry import registry, schema_text
from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from tests.support.fake_registry import Problem, StrictRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTRACT = Contract.load()
READY = CONTRACT.topics["video.status.ready"]
SECRET = "s3cret-of-the-tests"


@pytest.fixture
def played() -> Iterator[StrictRegistry]:
    """Play a registry."""
    with StrictRegistry() as registry:
        yield registry


async def test_a_schema_is_registered_once(played: StrictRegistry) -> None:
    """What is not there is not found; what is registered is found with its id; registering again changes nothing."""
    async with registry(RegistrySettings(url=played.url)) as there:
        assert await there.find(READY) is None
        assert await there.latest_version(READY) is None
        made = await there.register(READY)
        assert made == await there.register(READY) == await there.find(READY)
        assert (made.version, await there.latest_version(READY)) == (1, 1)
    assert played.subjects == {"gumlet.video.status.ready-value": [made.id]}


async def test_an_incompatible_schema_is_refused_with_the_reason(played: StrictRegistry, tmp_path: Path) -> None:
    """The compatibility check and the rejection report the same: what breaks, and the fix."""
    changed = _changed(tmp_path, lambda schema: schema["properties"].pop("title"))
    async with registry(RegistrySettings(url=played.url)) as there:
        await there.register(READY)
        assert await there.compatibility_errors(READY) is None
        assert await there.compatibility_errors(changed) == ["PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL /title"]
        with pytest.raises(RegistryError) as caught:
            await there.register(changed)
    assert caught.value.status == 409
    assert "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL /title" in caught.value.said
    assert "raise x-topic.version" in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        (Problem(401, "Unauthorized"), "BRIDGE_REGISTRY_USERNAME"),
        (Problem(40301, "User is denied operation Write"), "allow this user to read and write"),
        (Problem(404, "HTTP 404 Not Found"), "/apis/ccompat/v7"),
        (Problem(42201, "Invalid schema"), "schemaType JSON"),
        (Problem(42205, "Subject is in read-only mode"), "writing"),
        (Problem(429, "Too many requests"), "retry later"),
        (Problem(50001, "Error in the backend datastore"), "retry later"),
        (Problem(50002, "Operation timed out"), "retry later"),
        (Problem(50003, "Error while forwarding the request to the primary"), "retry later"),
    ],
    ids=lambda value: str(value.code) if isinstance(value, Problem) else "",
)
async def test_each_documented_error_says_what_to_do(played: StrictRegistry, problem: Problem, fix: str) -> None:
    """Each call makes of each error one message: the address, the status, the fix, the registry's words."""
    played.problem = problem
    async with registry(RegistrySettings(url=played.url)) as there:
        for call in (there.find, there.register, there.latest_version, there.compatibility_errors):
            permanent = int(str(problem.code)[:3]) in {401, 403, 404}
            with pytest.raises(RegistryIncompatible if permanent else RegistryError) as caught:
                await call(READY)
            said = str(caught.value)
            assert f": {str(problem.code)[:3]}: the registry" in said
            assert played.url in said
            assert problem.message in said
            assert fix in said


async def test_a_registry_that_is_away_or_is_none(played: StrictRegistry) -> None:
    """A refused connection and a server that is not a registry have different messages; both name the setting."""
    played.stop()
    try:
        async with registry(RegistrySettings(url=played.url)) as there:
            with pytest.raises(RegistryError, match=r"does not respond.*BRIDGE_REGISTRY_URL"):
                await there.find(READY)
    finally:
        played.start()
    async with registry(RegistrySettings(url=f"{played.url}/nowhere")) as there:
        with pytest.raises(RegistryIncompatible, match=r"404.*BRIDGE_REGISTRY_URL"):
            await there.find(READY)


async def test_authentication(played: StrictRegistry) -> None:
    """Basic and bearer credentials are sent as they are documented, and are in no message."""
    played.basic = ("user", SECRET)
    async with registry(RegistrySettings(url=played.url, username="user", password=SecretStr(SECRET))) as there:
        assert await there.find(READY) is None
    async with registry(RegistrySettings(url=played.url, username="user", password=SecretStr(SECRET + "!"))) as there:
        with pytest.raises(RegistryIncompatible) as caught:
            await there.find(READY)
    assert SECRET not in str(caught.value)
    played.basic, played.bearer = None, SECRET
    async with registry(RegistrySettings(url=played.url, token=SecretStr(SECRET))) as there:
        assert await there.find(READY) is None


async def test_without_an_address_the_setting_is_named() -> None:
    """A command that needs a registry says which setting is missing."""
    with pytest.raises(ConfigError, match="BRIDGE_REGISTRY_URL"):
        async with registry(RegistrySettings()):
            pass


@pytest.mark.parametrize("topic", CONTRACT.topics.values(), ids=lambda topic: topic.event_type)
def test_what_is_registered_means_the_same_to_every_registry(topic: Any) -> None:
    """It needs no other schema, and takes the topic's examples as draft 2020-12 and as the draft 7 of Karapace."""
    document = orjson.loads(schema_text(topic))
    assert COMMON not in schema_text(topic)
    assert not {"$id", "x-topic"} & document.keys()
    assert document["$schema"] == "http://json-schema.org/draft-07/schema#", "Apicurio compares no later draft"
    for validator in (jsonschema_rs.Draft202012Validator, jsonschema_rs.Draft7Validator):
        judge = validator(document, validate_formats=True)
        for path in (schemas_directory() / "examples" / topic.event_type).glob("*.out.json"):
            assert judge.is_valid(orjson.loads(path.read_bytes())), path
        assert not judge.is_valid({"type": topic.event_type, "unheard of": 1})
    # In draft 7 the siblings of a $ref are ignored: only annotations may stand there.
    beside = {name for node in _nodes(document) if "$ref" in node for name in node} - {"$ref"}
    assert beside <= {"title", "description", "examples", "x-source", "deprecated"}


def test_the_order_in_a_file_makes_no_other_schema(tmp_path: Path) -> None:
    """A file rearranged, and a topic configured otherwise, are the same schema to the registry."""

    def rearrange(schema: dict[str, Any]) -> None:
        schema["properties"] = dict(reversed(schema["properties"].items()))
        schema["x-topic"]["config"]["retention.ms"] = "1"

    assert schema_text(_changed(tmp_path, rearrange)) == schema_text(READY)
    other = _changed(tmp_path / "other", lambda schema: schema["properties"].pop("title"))
    assert schema_text(other) != schema_text(READY)


def test_the_marks_on_the_wire() -> None:
    """Byte for byte as Confluent documents them."""
    assert encode_id_prefix(100_001) == b"\x00\x00\x01\x86\xa1"
    name, value = encode_guid_header("00112233-4455-6677-8899-aabbccddeeff")
    assert (name, value.hex()) == ("__value_schema_id", "0100112233445566778899aabbccddeeff")


def _changed(directory: Path, change: Any) -> Any:
    """Return the topic of video.status.ready in a copy of the contract that `change` has changed."""
    shutil.copytree(schemas_directory(), directory / "schemas")
    path = directory / "schemas" / "video.status.ready.json"
    schema = orjson.loads(path.read_bytes())
    change(schema)
    path.write_bytes(orjson.dumps(schema))
    return Contract.load(directory=directory / "schemas").topics["video.status.ready"]


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from _nodes(each)
    elif isinstance(node, list):
        for each in node:
            yield from _nodes(each)
