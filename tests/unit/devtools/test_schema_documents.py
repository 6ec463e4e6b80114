"""The documents made from the schema files: AsyncAPI, the page, the bundles; and the commands that make them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml
from typer.testing import CliRunner

from bridge.cli.schemas import app
from bridge.contract.references import bundled, expanded, read_files
from bridge.contract.schemas import Contract, schemas_directory
from bridge.devtools import asyncapi
from bridge.devtools import schema_reference as contract_page
from bridge.errors import BridgeError, ContractError

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
            assert topic.violation(example["payload"]) is None


def test_asyncapis_own_parser_takes_the_document() -> None:
    """AsyncAPI's parser finds no error and no warning, where node and its packages are."""
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("no node, or tests/node without its packages: `make check` installs them")
    document = schemas_directory() / asyncapi.FILE
    result = subprocess.run(["node", "asyncapi.mjs", document], cwd=NODE, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{len(CONTRACT.topics)} channels, valid\n"


@pytest.mark.parametrize("command", ["asyncapi", "page"])
def test_a_document_that_differs_from_the_schemas_is_told(command: str, directory: Path) -> None:
    """`--check` passes on what is committed, fails after a change of a schema, and passes once it is written again."""
    run(command, "--check", "--schemas", directory)
    edit(directory / "video.status.ready.json", description="Something else.")
    with pytest.raises(BridgeError, match=f"Fix: gumlet-bridge schemas {command} --write"):
        run(command, "--check", "--schemas", directory)
    run(command, "--write", "--schemas", directory)
    run(command, "--check", "--schemas", directory)
    assert "Something else." in run(command, "--schemas", directory)


def test_the_page_has_every_topic_and_every_property() -> None:
    """No topic and no property is left out, each with its source."""
    page = contract_page.render(CONTRACT)
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
    page = contract_page.render(Contract.load(directory=directory))
    assert "### `video.status.deleted`" in page
    assert page.count("| `purged` | boolean |  | optional | Gone. | `/purged` |") == 1


def test_a_bundle_and_the_expanded_form_decide_as_the_files_do(tmp_path: Path) -> None:
    """Alone, without any other file, each form takes the examples and refuses what the contract refuses."""
    run("bundle", tmp_path / "out")
    for topic in CONTRACT.topics.values():
        alone = orjson.loads((tmp_path / "out" / topic.path.name).read_bytes())
        assert alone == bundled(topic.schema, FILES)
        assert b"common.json" not in orjson.dumps(alone)
        for form in (alone, expanded(topic.schema, FILES)):
            validator = jsonschema_rs.Draft202012Validator(form)
            for example in topic.schema["examples"]:
                assert validator.is_valid(example)
                assert not validator.is_valid(example | {"unknown": 1})
                assert not validator.is_valid({})


def test_a_schema_is_shown_whole() -> None:
    """What is printed is the bundled schema, as JSON for other programs."""
    assert orjson.loads(run("show", "video.status.ready")) == bundled(FILES["video.status.ready.json"], FILES)


def test_what_cannot_be_bundled_is_told(directory: Path) -> None:
    """The sources are not overwritten; a type that does not exist and a reference that leads nowhere are named."""
    with pytest.raises(BridgeError, match="holds the schemas themselves"):
        run("bundle", directory, "--schemas", directory)
    with pytest.raises(BridgeError, match="nothing is no event type"):
        run("show", "nothing")
    with pytest.raises(ContractError, match="no definition nowhere"):
        expanded({"$ref": "#/$defs/nowhere"}, FILES)
    with pytest.raises(ContractError, match="is no definition of"):
        bundled({"$ref": "other.json"}, FILES)
    circle = {"$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"}
    with pytest.raises(ContractError, match="a refers to itself"):
        expanded(circle, FILES)


def test_the_list_has_each_type() -> None:
    """Every event type is shown with its title."""
    shown = run("list")
    for event_type in ("video.status.stream_ready", "live.video.status.active", "dead-letter"):
        assert event_type in shown
