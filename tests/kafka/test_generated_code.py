"""The schema files as other people's tools read them: generated code in three languages takes every example.

Each language needs its toolchain; without it the test is skipped by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from bridge.cli.schemas import app
from bridge.contract.schemas import Contract, Topic, schemas_directory

TOPICS = Contract.load().topics
EXAMPLES = schemas_directory() / "examples"
NODE = Path(__file__).parents[1] / "node"
GO_GENERATOR = "github.com/atombender/go-jsonschema@v0.24.1"


def examples(topic: Topic) -> list[Path]:
    """Return the records that are a topic's examples."""
    return sorted((EXAMPLES / topic.event_type).glob("*.out.json"))


def root(topic: Topic) -> str:
    """Return the name that generators give a record's type: its title, in one word."""
    return "".join(word[0].upper() + word[1:] for word in topic.schema["title"].split())


def word(topic: Topic) -> str:
    """Return the event type as a name that every language takes."""
    return re.sub(r"[^a-z]", "_", topic.event_type)


def bundle(directory: Path, *options: str) -> Path:
    """Write the bundled schemas, as a user would."""
    result = CliRunner().invoke(app, ["bundle", str(directory), *options])
    assert result.exit_code == 0, result.output
    return directory


def run(*command: str | Path, cwd: Path) -> None:
    """Run a tool; its output is the failure's message."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def load(path: Path) -> Any:
    """Import a generated module from its file."""
    spec = importlib.util.spec_from_file_location(f"generated_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the annotations are looked up there
    spec.loader.exec_module(module)
    return module


def test_python_models_take_every_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datamodel-code-generator's pydantic models decode each record, also with a property that is added later.

    They reject a record without its required properties. The union of all events decodes each as its own type.
    """
    schemas = bundle(tmp_path / "schemas")
    generator = Path(sys.executable).with_name("datamodel-codegen")
    options = ["--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin", "--disable-timestamp"]
    run(generator, "--input", schemas, "--input-file-type", "jsonschema", "--output", "models", *options, cwd=tmp_path)
    for topic in TOPICS.values():
        model = getattr(load(tmp_path / "models" / f"{word(topic)}.py"), root(topic))
        for path in examples(topic):
            record = orjson.loads(path.read_bytes())
            decoded = model.model_validate_json(path.read_bytes())
            assert decoded.model_dump(mode="json", by_alias=True, exclude_unset=True).keys() == record.keys()
            model.model_validate_json(orjson.dumps(record | {"new_property": {"x": 1}}))
        with pytest.raises(ValidationError):
            model.model_validate({})
    monkeypatch.syspath_prepend(tmp_path)
    any_event = importlib.import_module("models.any_event").AnyEvent
    for topic in TOPICS.values():
        for path in examples(topic):
            if topic.event_type not in ("dead-letter", "unrecognized"):
                record = orjson.loads(path.read_bytes()) | {"new_property": {"x": 1}}
                event = any_event.model_validate_json(orjson.dumps(record)).root
                assert get_args(type(event).model_fields["type"].annotation) == (topic.event_type,)


@pytest.mark.long
def test_typescript_types_take_every_example(tmp_path: Path) -> None:
    """json-schema-to-typescript's types compile under `strict`, and each record is of its type."""
    tools = NODE / "node_modules" / ".bin"
    if shutil.which("node") is None or not (tools / "json2ts").exists():
        pytest.skip("no node, or tests/node without its packages: `make check` installs them")
    schemas = bundle(tmp_path / "schemas")
    run(tools / "json2ts", "--input", schemas, "--output", tmp_path / "types", cwd=tmp_path)
    lines = []
    for topic in TOPICS.values():
        lines.append(f'import type * as {word(topic)} from "./types/{topic.event_type}.d.ts";')
        record = f"{word(topic)}.{root(topic)}"
        lines += [
            f"export const {word(topic)}_{index}: {record} = {path.read_text()};"
            for index, path in enumerate(examples(topic))
        ]
        lines += ["// @ts-expect-error what must be there is not", f"export const {word(topic)}_not: {record} = {{}};"]
    (tmp_path / "examples.ts").write_text("\n".join(lines))
    run(tools / "tsc", "--strict", "--noEmit", "--module", "nodenext", "examples.ts", cwd=tmp_path)


GO_TEST = """
package generated

import (
	"encoding/json"
	"os"
	"testing"
)

func decode[T any](t *testing.T, path string) {
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var record T
	if err := json.Unmarshal(body, &record); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	encoded, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	var before, after map[string]any
	json.Unmarshal(body, &before)
	json.Unmarshal(encoded, &after)
	for name := range before {
		if _, kept := after[name]; !kept {
			t.Errorf("%s: %s is lost", path, name)
		}
	}
	before["new_property"] = map[string]any{"x": 1}
	extended, _ := json.Marshal(before)
	if err := json.Unmarshal(extended, &record); err != nil {
		t.Errorf("%s with a new property: %v", path, err)
	}
	if json.Unmarshal([]byte("{}"), &record) == nil {
		t.Errorf("%T takes what has nothing", record)
	}
}
"""


@pytest.mark.long
def test_go_types_take_every_example(tmp_path: Path) -> None:
    """go-jsonschema's types compile, decode each record with their checks, and lose no property."""
    if shutil.which("go") is None:
        pytest.skip("no go")
    fetched = subprocess.run(["go", "run", GO_GENERATOR, "--help"], capture_output=True, check=False)
    if fetched.returncode:
        pytest.skip(f"go cannot have {GO_GENERATOR}: {fetched.stderr.decode()[-200:]}")
    # Inline: the generator makes a type without methods of a time that is referred to.
    schemas = bundle(tmp_path / "schemas", "--inline")
    imports, calls = [], []
    for topic in TOPICS.values():
        folder = tmp_path / word(topic)
        folder.mkdir()
        name = ["--package", word(topic), "--tags", "json", "--struct-name-from-title"]
        run("go", "run", GO_GENERATOR, *name, "--output", folder / "types.go", schemas / topic.path.name, cwd=tmp_path)
        imports.append(f'import "generated/{word(topic)}"')
        calls += [
            f"\tdecode[{word(topic)}.{root(topic)}](t, {orjson.dumps(str(path)).decode()})" for path in examples(topic)
        ]
    head, _, rest = GO_TEST.partition("import (")
    body = "\n".join([head, *imports, f"import ({rest}", "func TestExamples(t *testing.T) {", *calls, "}"])
    (tmp_path / "generated_test.go").write_text(body)
    (tmp_path / "go.mod").write_text("module generated\n\ngo 1.22\n")
    run("go", "test", "./...", cwd=tmp_path)
