"""Forms of the contract's schemas: `dereference` replaces references, `bundle` makes them local to one file.

`for_consumers` opens a schema, and `bundle_union` joins the schemas of all event types. Pure functions of the files'
parsed contents. Only two forms of `$ref` exist in the contract, `common.json#/$defs/…` and, inside that file,
`#/$defs/…`; a reference to anything else, or to itself, is a `ContractError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from bridge.contract.schemas import COMMON
from bridge.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Files = Mapping[str, dict[str, Any]]

_PREFIXES = (f"{COMMON}#/$defs/", "#/$defs/")


def read_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the parsed schema files of a directory by their names."""
    try:
        return {path.name: orjson.loads(path.read_bytes()) for path in sorted(directory.glob("*.json"))}
    except (OSError, orjson.JSONDecodeError) as error:
        raise ContractError(f"{directory}: a schema file cannot be read: {error}") from error


def dereference(schema: dict[str, Any], files: Files, within: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema with each reference replaced by its target."""

    def walk(node: Any, within: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(item, within) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            name = _definition(reference)
            if name in within:
                raise ContractError(f"{COMMON}: {name} refers to itself")
            siblings = {key: value for key, value in node.items() if key != "$ref"}
            return walk(_target(name, schema, files), (*within, name)) | walk(siblings, within)
        return {key: walk(value, within) for key, value in node.items() if key != "$defs"}

    whole: dict[str, Any] = walk(schema, within)
    return whole


def bundle(schema: dict[str, Any], files: Files) -> dict[str, Any]:
    """Return the schema with the definitions that it needs in its own `$defs`: one self-contained file."""
    needed: dict[str, Any] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if not isinstance(reference := node.get("$ref"), str):
            return {key: walk(value) for key, value in node.items() if key != "$defs"}
        name = _definition(reference)
        if name not in needed:
            needed[name] = {}  # reserved before it is walked, so that a definition may refer to itself
            needed[name] = walk(_target(name, schema, files))
        return node | {"$ref": f"#/$defs/{name}"}

    whole: dict[str, Any] = walk(schema)
    return whole | ({"$defs": dict(sorted(needed.items()))} if needed else {})


def _definition(reference: str) -> str:
    for prefix in _PREFIXES:
        if reference.startswith(prefix):
            return reference.removeprefix(prefix)
    raise ContractError(f"{reference} is not a reference to a definition in {COMMON}")


def _target(name: str, schema: dict[str, Any], files: Files) -> Any:
    for owner in (schema, files.get(COMMON, {})):
        if name in owner.get("$defs", {}):
            return owner["$defs"][name]
    raise ContractError(f"{COMMON} has no definition {name}")


def for_consumers(schema: Any) -> Any:
    """Return a schema as consumers and code generators need it: open, and decided by the `enum` of `type`.

    Objects accept properties that are added later. A constant is an `enum` of one value, which every generator knows;
    it has no title, because generators name types by titles, and all event types share this one.
    """
    if isinstance(schema, list):
        return [for_consumers(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    form = {
        name: value if name == "examples" else for_consumers(value)
        for name, value in schema.items()
        if not (name == "additionalProperties" and value is False)
    }
    if "const" in form:
        form["enum"] = [form.pop("const")]
        del form["title"]
    return form


def bundle_union(bundles: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one schema of any event, from the bundled schema of each event type: `oneOf`, decided by `type`."""
    definitions: dict[str, Any] = {}
    for name, whole in sorted(bundles.items()):
        definitions |= whole.get("$defs", {})
        definitions[name] = {key: value for key, value in whole.items() if key not in {"$defs", "$id", "$schema"}}
    references = [{"$ref": f"#/$defs/{name}"} for name in sorted(bundles)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "any-event.json",
        "title": "Any event",
        "description": "A record of any typed topic: one schema for each value of `type`.",
        "oneOf": references,
        "discriminator": {"propertyName": "type", "mapping": {name: f"#/$defs/{name}" for name in sorted(bundles)}},
        "$defs": dict(sorted(definitions.items())),
    }
