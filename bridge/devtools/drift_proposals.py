"""The change of the schemas that would take in what drifted, as text to begin with.

Pure. A proposal names the files, and holds the lines to add: a skeleton whose title, description and unit are for
somebody who knows what the field means.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from bridge.contract import mappings
from bridge.contract.schemas import COMMON

if TYPE_CHECKING:
    from bridge.contract.references import Files

_TYPE_NAME = re.compile(r"[a-z0-9]+([._][a-z0-9]+)+")
"""What may become the name of a topic and a file; anything else is a stranger's text."""
_OPEN = "event.playlist.created"
"""What a type that is like no other is begun from: all but its type is in `additional`."""
_CONVERTERS = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "flag",
    "array": "items",
    "object": "mapping",
}


class Place(NamedTuple):
    """Where the contract describes something: a file, a JSON pointer into it, the schema there."""

    file: str
    pointer: str
    schema: dict[str, Any]


def proposal(sighting: dict[str, Any], files: Files) -> list[str]:
    """Return the change, a line of text each; `files` are the schema files by name."""
    event_type, path = sighting["event_type"], sighting["path"]
    match sighting["kind"]:
        case "new_type":
            return _new_type(event_type, files)
        case "new_field":
            return _new_field(event_type, path, sighting.get("forms") or [], files)
        case "changed":
            return _changed(event_type, path, files)
        case _:
            return ["more was seen than is counted: take in what stands above first"]


def _new_type(event_type: str, files: Files) -> list[str]:
    if not _TYPE_NAME.fullmatch(event_type):
        return ["no name for a topic: look at the records of the topic unrecognized"]
    like = max(mappings.MAPPINGS, key=lambda known: _kinship(known, event_type))
    like = like if _kinship(like, event_type) else _OPEN
    table = next(name for name, value in vars(mappings).items() if value is mappings.MAPPINGS[like])
    escaped = like.replace(".", r"\.")
    title = files[f"{like}.json"]["title"]
    return [
        f"sed 's/{escaped}/{event_type}/g' schemas/{like}.json > schemas/{event_type}.json",
        f'in it, another title and description than those of "{title}", and what the type has of its own',
        f'in bridge/mappings.py, MAPPINGS:  "{event_type}": {table},',
        f"two examples in schemas/examples/{event_type}/, one in its folder invalid/; then make generate-schemas check test",
    ]


def _kinship(one: str, other: str) -> int:
    """Return how many parts two types begin with in common."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one.split("."), other.split("."), strict=False))))


def _new_field(event_type: str, path: str, forms: list[str], files: Files) -> list[str]:
    if f"{event_type}.json" not in files:
        return ["the contract that came with this command has no such type: call the daemon's own version of it"]
    parent, _, name = path.rpartition("/")
    fragment = _skeleton(path, forms)
    rule = f"to({_json(name)}, {_CONVERTERS[fragment['type']]})"
    # What is new may lie in an object that is new itself.
    while (where := _find(event_type, parent.removesuffix("/*"), files)) is None:
        rule = f"Table({{{_json(name)}: {rule}}})"
        inner = {name: fragment}
        path, (parent, _, name) = parent, parent.rpartition("/")
        fragment = _described({"type": "object", "additionalProperties": False, "properties": inner}, path)
        rule = f"nested({_json(name)}, {rule})"
    table = "the type's table" if not parent else f"the table that reads {parent.removesuffix('/*')}"
    return [
        f"in schemas/{where.file}, properties of {where.pointer or 'the record'}:",
        f"  {_json(name)}: {_json(fragment)}",
        f"in bridge/mappings.py, {table}:  {_json(name)}: {rule},",
        "and in an example; then make generate-schemas check test",
    ]


def _changed(event_type: str, path: str, files: Files) -> list[str]:
    see = f"gumlet-bridge dead-letter list --reason schema_violation --type {event_type}"
    where = _find(event_type, path.removesuffix("/*"), files)
    if where is None:
        return [f"see what came: {see}"]
    now = {name: value for name, value in where.schema.items() if name in _CONSTRAINTS}
    return [
        f"in schemas/{where.file}, {where.pointer} is {_json(now)}",
        f"see what came: {see}",
        "the same in another form: teach its converter in bridge/fields.py, and replay the dead letters",
        f"something else: describe it there, and raise x-topic.version of {event_type}, which makes a new topic",
    ]


_CONSTRAINTS = {"type", "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "items", "const"}


def _skeleton(path: str, forms: list[str]) -> dict[str, Any]:
    known = [form for form in forms if form in _CONVERTERS]
    form = known[0] if len(known) == 1 else "number" if set(known) == {"integer", "number"} else "string"
    return _described({"type": form}, path)


def _described(schema: dict[str, Any], path: str) -> dict[str, Any]:
    return {"title": "…", "description": "…", **schema, "x-source": path, "examples": []}


def _find(event_type: str, path: str, files: Files) -> Place | None:
    """Return where what comes from `path` in Gumlet's body is described; "" is the record itself."""
    file = f"{event_type}.json"
    if file not in files:
        return None
    if not path:
        return Place(file, "", files[file])
    ahead = [Place(file, "", files[file])]
    while ahead:
        here = ahead.pop()
        for name, schema in here.schema.get("properties", {}).items():
            there = _followed(Place(here.file, f"{here.pointer}/properties/{name}", schema), files)
            if there.schema.get("x-source") == path:
                return _items_of(there, files)
            ahead.append(_items_of(there, files))
    return None


def _items_of(place: Place, files: Files) -> Place:
    """Return what a list's items are described by, else the place itself."""
    items = place.schema.get("items")
    if not isinstance(items, dict) or not ("$ref" in items or "properties" in items):
        return place
    return _followed(Place(place.file, f"{place.pointer}/items", items), files)


def _followed(place: Place, files: Files) -> Place:
    reference = place.schema.get("$ref")
    if not isinstance(reference, str):
        return place
    name = reference.rpartition("/")[2]
    return Place(COMMON, f"/$defs/{name}", files[COMMON]["$defs"][name])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
