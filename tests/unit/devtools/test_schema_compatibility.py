"""The rules of compatibility, one case each; and `gumlet-bridge schemas check` on directories and git repositories."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from bridge.cli.schemas import app
from bridge.contract.references import read_files
from bridge.contract.schemas import schemas_directory
from bridge.devtools import git_baseline
from bridge.devtools.schema_compatibility import BACKWARD, FORWARD, compare, schema_changes
from bridge.errors import BridgeError

NONE: set[str] = set()
BOTH = {BACKWARD, FORWARD}
TEXT = {"type": "string"}


def closed(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    """Return a closed object's schema."""
    return {"type": "object", "additionalProperties": False, "required": required or [], "properties": properties}


def opened(**properties: Any) -> dict[str, Any]:
    """Return an open object's schema."""
    return {"type": "object", "additionalProperties": True, "properties": properties}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "nothing changed": (closed(a=TEXT), closed(a=TEXT), NONE),
    "description only": (TEXT | {"description": "a"}, TEXT | {"description": "b"}, NONE),
    "examples and title only": (TEXT, TEXT | {"title": "a", "examples": ["b"]}, NONE),
    "extension only": (TEXT | {"x-source": "/a"}, TEXT | {"x-source": "/b"}, NONE),
    "optional property added": (closed(), closed(a=TEXT), NONE),
    "optional property added to an open object": (opened(), opened(a=TEXT), {BACKWARD}),
    "required property added": (closed(), closed(["a"], a=TEXT), {BACKWARD}),
    "optional property removed": (closed(a=TEXT), closed(), {BACKWARD}),
    "required property removed": (closed(["a"], a=TEXT), closed(), BOTH),
    "optional property removed from an open object": (opened(a=TEXT), opened(), BOTH),
    "property renamed": (closed(["a"], a=TEXT), closed(["b"], b=TEXT), BOTH),
    "made required": (closed(a=TEXT), closed(["a"], a=TEXT), {BACKWARD}),
    "made optional": (closed(["a"], a=TEXT), closed(a=TEXT), {FORWARD}),
    "type widened": (TEXT, {"type": ["string", "null"]}, {FORWARD}),
    "type narrowed": ({"type": ["string", "null"]}, TEXT, {BACKWARD}),
    "integer widened to number": ({"type": "integer"}, {"type": "number"}, {FORWARD}),
    "number narrowed to integer": ({"type": "number"}, {"type": "integer"}, {BACKWARD}),
    "another type": (TEXT, {"type": "integer"}, BOTH),
    "type written as a list": (TEXT, {"type": ["string"]}, NONE),
    "type dropped": (TEXT, {}, {FORWARD}),
    "type added": ({}, TEXT, {BACKWARD}),
    "enum grown": ({"enum": ["a"]}, {"enum": ["a", "b"]}, {FORWARD}),
    "enum shrunk": ({"enum": ["a", "b"]}, {"enum": ["a"]}, {BACKWARD}),
    "enum in another order": ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}, NONE),
    "enum exchanged": ({"enum": ["a", "b"]}, {"enum": ["b", "c"]}, BOTH),
    "enum added": (TEXT, TEXT | {"enum": ["a"]}, {BACKWARD}),
    "enum dropped": (TEXT | {"enum": ["a"]}, TEXT, {FORWARD}),
    "const changed": ({"const": "a"}, {"const": "b"}, BOTH),
    "const became an enum with it": ({"const": "a"}, {"enum": ["a", "b"]}, {FORWARD}),
    "minimum raised": ({"minimum": 0}, {"minimum": 1}, {BACKWARD}),
    "minimum lowered": ({"minimum": 1}, {"minimum": 0}, {FORWARD}),
    "minimum added": ({}, {"minimum": 0}, {BACKWARD}),
    "minimum dropped": ({"minimum": 0}, {}, {FORWARD}),
    "maximum raised": ({"maximum": 1}, {"maximum": 2}, {FORWARD}),
    "maximum lowered": ({"maximum": 2}, {"maximum": 1}, {BACKWARD}),
    "length bounds moved both ways": ({"minLength": 1, "maxLength": 5}, {"minLength": 2, "maxLength": 6}, BOTH),
    "list may be shorter": ({"minItems": 1}, {"minItems": 0}, {FORWARD}),
    "pattern added": (TEXT, TEXT | {"pattern": "a"}, {BACKWARD}),
    "pattern dropped": (TEXT | {"pattern": "a"}, TEXT, {FORWARD}),
    "pattern changed": (TEXT | {"pattern": "a"}, TEXT | {"pattern": "b"}, BOTH),
    "format changed": (TEXT | {"format": "date"}, TEXT | {"format": "date-time"}, BOTH),
    "object closed": (opened(a=TEXT), closed(a=TEXT), {BACKWARD}),
    "object opened": (closed(a=TEXT), opened(a=TEXT), {FORWARD}),
    "other properties' type widened": (
        {"additionalProperties": {"type": "integer"}},
        {"additionalProperties": {"type": "number"}},
        {FORWARD},
    ),
    "items widened": ({"items": TEXT}, {"items": {}}, {FORWARD}),
    "items narrowed": ({"items": {}}, {"items": TEXT}, {BACKWARD}),
    "items dropped": ({"items": TEXT}, {}, {FORWARD}),
    "items closed altogether": ({"items": TEXT}, {"items": False}, BOTH),
    "deep inside": (closed(a=closed(b=TEXT)), closed(a=closed(b={"type": "integer"})), BOTH),
    "an item's property made required": (
        {"items": closed(a=TEXT)},
        {"items": closed(["a"], a=TEXT)},
        {BACKWARD},
    ),
    "a keyword without a rule": ({}, {"not": {"const": 1}}, BOTH),
    "a keyword without a rule changed": ({"anyOf": [TEXT]}, {"anyOf": [TEXT, {}]}, BOTH),
}


@pytest.mark.parametrize(("old", "new", "breaks"), CASES.values(), ids=CASES)
def test_a_change_breaks_what_its_rule_names(old: dict[str, Any], new: dict[str, Any], breaks: set[str]) -> None:
    """Each kind of change, alone: whether it breaks old records, old consumers or both."""
    changes = list(schema_changes(old, new))
    assert set().union(*(change.breaks for change in changes)) == breaks


@pytest.mark.parametrize(("old", "new", "breaks"), CASES.values(), ids=CASES)
def test_a_change_undone_breaks_the_other_direction(old: dict[str, Any], new: dict[str, Any], breaks: set[str]) -> None:
    """Values allowed in one direction are rejected in the other; a reader ignores unknown properties."""
    back = set().union(*(change.breaks for change in schema_changes(new, old)))
    by_property = old.get("properties", {}).keys() != new.get("properties", {}).keys()
    mirrored = {FORWARD if name == BACKWARD else BACKWARD for name in breaks}
    assert by_property or back == mirrored


def test_a_change_has_its_place() -> None:
    """The pointer leads into the record, a list's items as `*`."""
    old, new = ({"properties": {"a": {"items": closed(b={"type": kind})}}} for kind in ("string", "integer"))
    (change,) = schema_changes(old, new)
    assert (change.pointer, change.description) == ("/a/*/b", "type: string became integer")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a copy of the contract's directory, to be changed."""
    return Path(shutil.copytree(schemas_directory(), tmp_path / "new"))


def edit(path: Path, x_topic: dict[str, Any] | None = None, **properties: Any) -> None:
    """Change members of a schema's x-topic, and properties of its record (None: removed)."""
    schema = orjson.loads(path.read_bytes())
    schema["x-topic"] |= x_topic or {}
    schema["properties"] = {
        name: value for name, value in (schema["properties"] | properties).items() if value is not None
    }
    path.write_bytes(orjson.dumps(schema, option=orjson.OPT_INDENT_2))


@pytest.mark.parametrize(
    ("x_topic", "breaks"),
    [
        ({"key": None}, BOTH),
        ({"partitions": 12}, BOTH),
        ({"config": {"cleanup.policy": "compact", "retention.ms": "604800000"}}, BOTH),
        ({"config": {"cleanup.policy": "delete", "retention.ms": "1"}}, NONE),
        ({"version": 2}, NONE),
        ({"key_description": "Else."}, NONE),
    ],
)
def test_a_topic_keeps_its_key_partitions_and_cleanup(
    directory: Path, x_topic: dict[str, Any], breaks: set[str]
) -> None:
    """Key, partitions and cleanup policy are part of the contract; retention may change."""
    edit(directory / "video.status.ready.json", x_topic)
    topics = compare(read_files(schemas_directory()), read_files(directory))
    assert set().union(*(topic.breaks for topic in topics)) == breaks


def test_a_shared_definition_changes_every_topic_that_uses_it(directory: Path) -> None:
    """A change of common.json is reported for each topic whose records it affects, and for no other."""
    common = orjson.loads((directory / "common.json").read_bytes())
    common["$defs"]["progress_percent"]["maximum"] = 50
    (directory / "common.json").write_bytes(orjson.dumps(common))
    topics = compare(read_files(schemas_directory()), read_files(directory))
    assert len(topics) == 9
    assert {change.pointer for topic in topics for change in topic.changes} == {"/progress_percent"}


def test_a_topic_may_be_added_and_not_removed(directory: Path) -> None:
    """A new topic breaks no consumer; a removed one breaks all."""
    old, new = read_files(schemas_directory()), read_files(directory)
    del new["event.comment.all.json"]
    ((removed,), (added,)) = (compare(old, new), compare(new, old))
    assert (removed.allowed, added.allowed) == (False, True)
    assert removed.breaks == BOTH


def test_a_version_may_be_raised_and_not_lowered(directory: Path) -> None:
    """A higher version allows any change, since it is another topic; a lower one is an error."""
    edit(directory / "video.status.ready.json", {"version": 2}, tags=None)
    old, new = read_files(schemas_directory()), read_files(directory)
    (raised,) = compare(old, new)
    assert (raised.allowed, raised.version_bumped) == (True, True)
    assert raised.breaks == BOTH
    (lowered,) = compare(new, old)
    assert not lowered.allowed


def check(directory: Path, *arguments: str | Path) -> str:
    """Run `gumlet-bridge schemas check`, and return its output; an error is raised."""
    result = CliRunner().invoke(app, ["check", "--schemas", str(directory), *map(str, arguments)])
    if isinstance(result.exception, BridgeError):
        raise BridgeError(f"{result.output}\n{result.exception}")
    assert result.exit_code == 0, result.exception
    return result.output


def git(directory: Path, *arguments: str) -> None:
    """Run git with an identity of its own."""
    who = ["-c", "user.name=n", "-c", "user.email=n@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", directory, *who, *arguments], check=True, capture_output=True)


def test_check_compares_with_a_directory(directory: Path) -> None:
    """The output names the compatibility of each topic; a breaking change fails until the version is raised."""
    assert "0 topics changed" in check(directory, "--against", schemas_directory())
    edit(directory / "video.status.ready.json", views={"type": "integer"})
    output = check(directory, "--against", schemas_directory())
    assert "video.status.ready: BACKWARD and FORWARD\n  /views: optional property added\n" in output
    edit(directory / "video.status.deleted.json", title=None)
    with pytest.raises(BridgeError, match=r"video\.status\.deleted: FORWARD\n  /title: .*\(breaks BACKWARD\)"):
        check(directory, "--against", schemas_directory())
    edit(directory / "video.status.deleted.json", {"version": 2})
    assert "video.status.deleted: version 2, a new topic" in check(directory, "--against", schemas_directory())


def test_check_compares_with_a_git_reference(directory: Path) -> None:
    """The files as they were at a commit; by default at the newest tag, else at the last commit, else its parent."""
    assert git_baseline.default_ref(directory.parent) is None
    assert "NOT CHECKED" in check(directory)
    git(directory.parent, "init", "--initial-branch", "main")
    git(directory.parent, "add", ".")
    git(directory.parent, "commit", "-m", "first")
    assert "compatible" in check(directory)
    edit(directory / "video.status.ready.json", title=None)
    with pytest.raises(BridgeError, match="1 of 1 changed topics are incompatible"):
        check(directory)
    git(directory.parent, "commit", "-am", "second")
    with pytest.raises(BridgeError, match="incompatible"):
        check(directory)
    assert "0 topics changed since HEAD" in check(directory, "--against", "HEAD")
    git(directory.parent, "tag", "v1")
    assert "0 topics changed since v1" in check(directory)


def test_check_compares_a_branch_with_its_merge_base(directory: Path, tmp_path: Path) -> None:
    """In a clone with commits of its own, the baseline is the commit of the remote's default branch."""
    git(directory.parent, "init", "--initial-branch", "main")
    git(directory.parent, "add", ".")
    git(directory.parent, "commit", "-m", "first")
    git(tmp_path, "clone", str(directory.parent / ".git"), "clone")
    clone = tmp_path / "clone" / "new"
    for title in (None, {"type": "integer"}):
        edit(clone / "video.status.ready.json", title=title)
        git(clone, "commit", "-am", "on the branch")
    with pytest.raises(BridgeError, match=r"/title: type: string became integer"):
        check(clone)


@pytest.mark.parametrize("against", ["no-such-ref", "--output=x"])
def test_a_reference_that_does_not_exist_is_named(directory: Path, against: str) -> None:
    """Neither a directory nor a commit: the message names the fix."""
    with pytest.raises(BridgeError, match="is not a directory, and not a git reference with schemas"):
        check(directory, f"--against={against}")


def test_a_directory_without_schemas_is_an_error(directory: Path, tmp_path: Path) -> None:
    """An empty baseline would make every change look like a new topic."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BridgeError, match="has no schema files"):
        check(directory, "--against", tmp_path / "empty")
