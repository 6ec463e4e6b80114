"""The documents generated from the schema files: AsyncAPI, the reference, the bundles; and their commands."""

from __future__ import annotations

import builtins
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson
import pytest
import yaml
from typer.testing import CliRunner

from bridge.cli.schemas import app
from bridge.contract.normalizer import Normalizer
from bridge.contract.references import bundle, dereference, read_files
from bridge.contract.schemas import Contract, schemas_directory
from bridge.devtools import asyncapi, schema_reference
from bridge.errors import BridgeError, ContractError
from bridge.event import Delivery
from bridge.kafka.wire_format import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTRACT = Contract.load()
FILES = read_files(schemas_directory())
NODE = Path(__file__).parents[2] / "node"


def run(*arguments: str | Path) -> str:
    """Run `gumlet-bridge schemas` and return what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, BridgeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a copy of the contract's directory, to be changed."""
    return Path(shutil.copytree(schemas_directory(), tmp_path / "schemas"))


def edit(path: Path, **changes: Any) -> None:
    """Change top-level members of a schema file."""
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))


def test_the_asyncapi_document_has_each_topic_as_it_is() -> None:
    """Address, partitions, configuration, key, headers, schema and examples are the contract's own."""
    document = yaml.safe_load(asyncapi.render(CONTRACT))
    assert document["channels"].keys() == CONTRACT.topics.keys()
    for event_type, topic in CONTRACT.topics.items():
        channel = document["channels"][event_type]
        binding = channel["bindings"]["kafka"]
        assert (channel["address"], binding["topic"], binding["partitions"]) == (
            topic.name,
            topic.name,
            topic.partitions,
        )
        assert binding["topicConfiguration"]["cleanup.policy"] == [topic.config["cleanup.policy"]]
        assert str(binding["topicConfiguration"]["retention.ms"]) == topic.config["retention.ms"]
        message = document["components"]["messages"][event_type]
        assert (schemas_directory() / message["payload"]["$ref"]).samefile(topic.path)
        assert message["bindings"]["kafka"]["key"]["description"]
        assert len(message["examples"]) >= 2
        for example in message["examples"]:
            assert topic.first_violation(example["payload"]) is None


def test_asyncapis_own_parser_accepts_the_document() -> None:
    """AsyncAPI's parser finds no error and no warning, where node and its packages are."""
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("no node, or tests/node without its packages: `make check` installs them")
    document = schemas_directory() / asyncapi.FILE
    result = subprocess.run(["node", "asyncapi.mjs", document], cwd=NODE, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{len(CONTRACT.topics)} channels, valid\n"


def test_every_header_is_in_both_documents() -> None:
    """Those of a delivered event with a trace, and those that the registry and `reconcile` add."""
    body = b'{"type":"video.status.ready","asset_id":"a"}'
    event = Normalizer(CONTRACT).event(Delivery(0, "default", body, "00-trace"))
    names = {name for name, _ in event.headers} | {"ce_origin", HEADER}
    headers = yaml.safe_load(asyncapi.render(CONTRACT))["components"]["messageTraits"]["cloudevent"]["headers"]
    assert headers["properties"].keys() == names
    section = schema_reference.render(CONTRACT).partition("| header | value |")[2].partition("##")[0]
    assert set(re.findall(r"`([a-z_-]+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE)))) == names


@pytest.mark.parametrize("command", ["asyncapi", "docs"])
def test_a_document_that_is_out_of_date_is_an_error(command: str, directory: Path) -> None:
    """`--check` passes on what is committed, fails after a change of a schema, and passes once it is written again."""
    run(command, "--check", "--schemas", directory)
    edit(directory / "video.status.ready.json", description="Something else.")
    with pytest.raises(BridgeError, match=f"Fix: gumlet-bridge schemas {command} --write"):
        run(command, "--check", "--schemas", directory)
    run(command, "--write", "--schemas", directory)
    run(command, "--check", "--schemas", directory)
    assert "Something else." in run(command, "--schemas", directory)


def test_the_reference_has_every_topic_and_every_property() -> None:
    """No topic and no property is left out, each with its source."""
    page = schema_reference.render(CONTRACT)
    for topic in CONTRACT.topics.values():
        assert f"[`{topic.name}`]({topic.path.name})" in page
        for name in topic.schema["properties"]:
            assert f"| `{name}` |" in page
    assert "| `warnings[].code` | string |" in page
    assert "| `input.frame_rate.numerator` | integer, 0 or more |  | always |" in page
    assert "| `input.duration_seconds` | number, 0 or more | s | optional |" in page


def test_a_topic_with_a_property_of_its_own_has_its_own_table(directory: Path) -> None:
    """Topics share a table only where their records have the same properties."""
    path = directory / "video.status.deleted.json"
    schema = orjson.loads(path.read_bytes())
    schema["properties"]["purged"] = {"title": "P", "description": "Gone.", "type": "boolean", "x-source": "/purged"}
    path.write_bytes(orjson.dumps(schema))
    page = schema_reference.render(Contract.load(directory=directory))
    assert "### `video.status.deleted`" in page
    assert page.count("| `purged` | boolean |  | optional | Gone. | `/purged` |") == 1


def test_a_bundle_and_the_dereferenced_form_validate_as_the_files_do() -> None:
    """Without any other file, each form accepts the examples and rejects what the contract rejects."""
    for topic in CONTRACT.topics.values():
        for form in (bundle(topic.schema, FILES), dereference(topic.schema, FILES)):
            assert b"common.json" not in orjson.dumps(form)
            validator = jsonschema_rs.Draft202012Validator(form)
            for example in topic.schema["examples"]:
                assert validator.is_valid(example)
                assert not validator.is_valid(example | {"unknown": 1})
                assert not validator.is_valid({})


def with_new_properties(node: Any) -> Any:
    """Return a record in which each object has a property more, as a later version of the contract may add one."""
    if isinstance(node, list):
        return [with_new_properties(item) for item in node]
    if isinstance(node, dict):
        return {name: with_new_properties(value) for name, value in node.items()} | {"new_property": {"x": [1]}}
    return node


@pytest.mark.parametrize("options", [(), ("--inline",)])
def test_written_bundles_accept_properties_that_are_added_later(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Consumers read objects as open, at every level; what must be present must still be."""
    run("bundle", tmp_path / "out", *options)
    for topic in CONTRACT.topics.values():
        alone = orjson.loads((tmp_path / "out" / topic.path.name).read_bytes())
        assert alone["x-topic"] == topic.schema["x-topic"]
        assert alone["examples"] == topic.schema["examples"]
        validator = jsonschema_rs.Draft202012Validator(alone)
        for example in topic.schema["examples"]:
            assert validator.is_valid(example)
            assert validator.is_valid(with_new_properties(example))
        assert not validator.is_valid({})


@pytest.mark.parametrize("options", [(), ("--inline",)])
def test_each_alternative_of_any_event_is_recognized_by_its_type_alone(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Each requires `type`, an `enum` of one value; a record with new properties matches its own alternative only.

    Some generators ignore `const`, and all name a type after its title: one title would make all event types one.
    """
    run("bundle", tmp_path / "out", *options)
    union = orjson.loads((tmp_path / "out" / "any-event.json").read_bytes())
    alternatives = {name: union["$defs"][name] for name in union["discriminator"]["mapping"]}
    assert union["oneOf"] == [{"$ref": f"#/$defs/{name}"} for name in alternatives]
    validators = {
        name: jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": union["$defs"]})
        for name in alternatives
    }
    for name, alternative in alternatives.items():
        type_ = alternative["properties"]["type"]
        assert (type_["enum"], type_["type"]) == ([name], "string")
        assert not type_.keys() & {"const", "title", "$ref"}
        assert "type" in alternative["required"]
        for example in CONTRACT.topics[name].schema["examples"]:
            for record in (example, with_new_properties(example)):
                assert [other for other, validator in validators.items() if validator.is_valid(record)] == [name]


@pytest.mark.parametrize("options", [(), ("--inline",)])
def test_any_event_is_one_schema(tmp_path: Path, options: tuple[str, ...]) -> None:
    """`any-event.json` accepts every example of a typed topic by exactly one alternative, decided by `type`."""
    run("bundle", tmp_path / "out", *options)
    union = orjson.loads((tmp_path / "out" / "any-event.json").read_bytes())
    validator = jsonschema_rs.Draft202012Validator(union)
    if options:  # no reference but those of the alternatives
        assert union["$defs"].keys() == union["discriminator"]["mapping"].keys()
        assert b"$ref" not in orjson.dumps(union["$defs"])
    assert len(union["oneOf"]) == len(CONTRACT.topics) - 2
    assert union["discriminator"]["mapping"].keys() == CONTRACT.topics.keys() - {"dead-letter", "unrecognized"}
    for topic in CONTRACT.topics.values():
        is_typed = topic.event_type in union["discriminator"]["mapping"]
        for record in topic.schema["examples"]:
            assert validator.is_valid(record) is is_typed
            assert not validator.is_valid(record | {"type": "video.status.unknown"})


BUILT_INS = {
    *dir(builtins),
    *("Array", "Boolean", "Date", "Error", "Event", "Function", "JSON", "Map", "Number", "Object", "Promise", "Proxy"),
    *("Record", "Request", "Response", "Set", "String", "Symbol", "Input", "Output"),
    *("Exception", "Integer", "Iterable", "Module", "Override", "Process", "Thread", "Throwable", "Void"),
}
"""Names of Python, of JavaScript and TypeScript, and of java.lang."""


def test_a_title_that_becomes_a_type_is_not_a_built_in_name() -> None:
    """Generators name the type of an object after its title: `Error` would shadow the language's own."""

    def titles(schema: Any) -> Iterator[str]:
        if isinstance(schema, list):
            for item in schema:
                yield from titles(item)
        if isinstance(schema, dict):
            if schema.get("type") == "object" and "title" in schema:
                yield schema["title"]
            for value in schema.values():
                yield from titles(value)

    found = {title.title().replace(" ", "") for title in titles(list(FILES.values()))}
    assert {"AssetError", "AssetWarning"} <= found
    assert not found & BUILT_INS


def test_show_prints_the_bundled_schema(tmp_path: Path) -> None:
    """The output is JSON for other programs: the same as the file that `bundle` writes."""
    run("bundle", tmp_path)
    written = orjson.loads((tmp_path / "video.status.ready.json").read_bytes())
    assert orjson.loads(run("show", "video.status.ready")) == written


def test_a_schema_that_cannot_be_bundled_is_named(directory: Path) -> None:
    """The sources are not overwritten; an unknown type and an invalid reference are named."""
    with pytest.raises(BridgeError, match="holds the schemas themselves"):
        run("bundle", directory, "--schemas", directory)
    with pytest.raises(BridgeError, match="nothing is not an event type"):
        run("show", "nothing")
    with pytest.raises(ContractError, match="no definition nowhere"):
        dereference({"$ref": "#/$defs/nowhere"}, FILES)
    with pytest.raises(ContractError, match="is not a reference to a definition"):
        bundle({"$ref": "other.json"}, FILES)
    circle = {"$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"}
    with pytest.raises(ContractError, match="a refers to itself"):
        dereference(circle, FILES)


def test_the_list_has_each_type() -> None:
    """Every event type is shown with its title."""
    shown = run("list")
    for event_type in ("video.status.stream_ready", "live.video.status.active", "dead-letter"):
        assert event_type in shown
