"""Compares two states of the contract, topic by topic, and decides whether they are compatible.

`BACKWARD`: old records are valid for the new schema, so that a consumer of the new one can read the records on the
topic. `FORWARD`: old consumers understand new records. Within a version both must hold: a change that breaks either
needs a new version, which is a new topic.

A consumer reads objects as open, as the schema reference demands: a new optional property breaks nothing.
The rules are in `RULES`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.contract.references import dereference
from bridge.contract.schemas import COMMON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bridge.contract.references import Files

RULES = """\
| change | breaks |
|---|---|
| title, description, examples, `x-source`, any other annotation | nothing |
| optional property added to a closed object | nothing |
| optional property added to an open object (old records may have anything there) | BACKWARD |
| required property added, property made required | BACKWARD |
| optional property removed | BACKWARD |
| required property removed | both |
| property made optional | FORWARD |
| more values allowed: type or bounds widened, enum grown, `pattern` or `format` dropped | FORWARD |
| fewer values allowed: type or bounds narrowed, enum shrunk, `pattern` or `format` added | BACKWARD |
| values changed otherwise: another type, `const`, `pattern` or `format` | both |
| object closed that was open | BACKWARD |
| object opened that was closed | FORWARD |
| topic removed; its key, partitions or cleanup policy changed | both |
| topic added; retention or other configuration changed | nothing |
| any other keyword added, removed or changed | both |
"""
"""Part of the schema reference; the tests have a case for each."""
BACKWARD = "BACKWARD"
FORWARD = "FORWARD"
_BOTH = frozenset({BACKWARD, FORWARD})
_NONE: frozenset[str] = frozenset()
_BREAKS_BACKWARD = frozenset({BACKWARD})
_BREAKS_FORWARD = frozenset({FORWARD})

_LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_UPPER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_RESTRICTIONS = {"pattern", "format", "contentEncoding", "contentMediaType", "multipleOf", "uniqueItems"}
_ANNOTATIONS = {"title", "description", "examples", "default", "deprecated", "$comment", "$schema", "$id"}
_STRUCTURE = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_MISSING = object()


class Change(NamedTuple):
    """One difference: its place in the record, its description, and what it breaks (empty: it is harmless)."""

    pointer: str
    description: str
    breaks: frozenset[str]


class TopicCompatibility(NamedTuple):
    """The differences of one topic. After a version bump the changes are on a new topic, so they break nothing."""

    event_type: str
    old_version: int | None
    new_version: int | None
    changes: list[Change]

    @property
    def version_bumped(self) -> bool:
        """Whether the schema has a higher version."""
        return None not in (self.old_version, self.new_version) and self.new_version > self.old_version  # type: ignore[operator]

    @property
    def breaks(self) -> frozenset[str]:
        """Everything that the changes break."""
        return frozenset(chain.from_iterable(change.breaks for change in self.changes))

    @property
    def allowed(self) -> bool:
        """Whether the changes are allowed within the rules."""
        return self.version_bumped or not self.breaks


def compare(old: Files, new: Files) -> list[TopicCompatibility]:
    """Return the compatibility of each topic that changed, in the order of their names."""
    topics = [
        _compare_topic(name.removesuffix(".json"), old.get(name), new.get(name), old, new)
        for name in sorted((old.keys() | new.keys()) - {COMMON})
    ]
    return [topic for topic in topics if topic.changes]


def _compare_topic(
    event_type: str, old: dict[str, Any] | None, new: dict[str, Any] | None, old_files: Files, new_files: Files
) -> TopicCompatibility:
    if old is None or new is None:
        change = Change("", "topic added", _NONE) if old is None else Change("", "topic removed", _BOTH)
        return TopicCompatibility(event_type, _version(old), _version(new), [change])
    changes = [*_topic(old.get("x-topic", {}), new.get("x-topic", {}))]
    changes += schema_changes(dereference(old, old_files), dereference(new, new_files))
    return TopicCompatibility(event_type, _version(old), _version(new), changes)


def _version(schema: dict[str, Any] | None) -> int | None:
    return None if schema is None else int(schema.get("x-topic", {}).get("version", 1))


def _topic(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the changes of the topic itself."""
    for name in ("key", "partitions"):
        if old.get(name) != new.get(name):
            yield Change("", f"{name}: {old.get(name)} became {new.get(name)}", _BOTH)
    version = old.get("version", 1), new.get("version", 1)
    if version[0] != version[1]:
        lowered = version[1] < version[0]
        yield Change("", f"version: {version[0]} became {version[1]}", _BOTH if lowered else _NONE)
    before, after = old.get("config", {}), new.get("config", {})
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            breaks = _BOTH if name == "cleanup.policy" else _NONE
            yield Change("", f"{name}: {before.get(name)} became {after.get(name)}", breaks)


def schema_changes(old: dict[str, Any], new: dict[str, Any], pointer: str = "") -> Iterator[Change]:
    """Yield each difference between two dereferenced schemas."""
    yield from _values(old, new, pointer)
    yield from _bounds(old, new, pointer)
    yield from _object(old, new, pointer)
    yield from _items(old, new, pointer)
    for keyword in sorted(old.keys() | new.keys()):
        before, after = old.get(keyword, _MISSING), new.get(keyword, _MISSING)
        if before is not after and before != after:
            if keyword in _ANNOTATIONS or keyword.startswith("x-"):
                if keyword != "x-topic":  # compared by name above
                    yield Change(pointer, f"{keyword} changed", _NONE)
            elif keyword not in _STRUCTURE | _LOWER | _UPPER | _RESTRICTIONS:
                yield Change(pointer, f"{keyword} changed: no rule covers it", _BOTH)


def _values(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = _types(old), _types(new)
    if before != after:
        breaks = _breaks(old_allowed=before <= after, new_known=after <= before)
        yield Change(pointer, f"type: {old.get('type', 'any')} became {new.get('type', 'any')}", breaks)
    listed, then = _listed(old), _listed(new)
    if listed != then:
        breaks = _breaks(old_allowed=_subset(listed, then), new_known=_subset(then, listed))
        yield Change(pointer, f"values: {_format_values(listed)} became {_format_values(then)}", breaks)
    for keyword in sorted(_RESTRICTIONS):
        if old.get(keyword) != new.get(keyword):
            breaks = _BREAKS_BACKWARD if keyword not in old else _BREAKS_FORWARD if keyword not in new else _BOTH
            yield Change(pointer, f"{keyword}: {old.get(keyword)} became {new.get(keyword)}", breaks)


def _types(schema: dict[str, Any]) -> frozenset[str]:
    """Return the JSON types that a schema allows. Every integer is a number too."""
    declared = schema.get("type", list(_TYPES))
    types = frozenset([declared] if isinstance(declared, str) else declared)
    return types | {"integer"} if "number" in types else types


def _breaks(*, old_allowed: bool, new_known: bool) -> frozenset[str]:
    """Return what a change breaks, if the old values are allowed by the new schema, and the new ones by the old."""
    return (_NONE if old_allowed else _BREAKS_BACKWARD) | (_NONE if new_known else _BREAKS_FORWARD)


def _listed(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _subset(part: list[Any] | None, whole: list[Any] | None) -> bool:
    return whole is None or (part is not None and all(value in whole for value in part))


def _format_values(listed: list[Any] | None) -> str:
    return "any" if listed is None else ", ".join(map(str, listed))


def _bounds(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    for keyword in sorted(_LOWER | _UPPER):
        before, after = old.get(keyword), new.get(keyword)
        if before != after:
            if before is None or after is None:
                narrower = before is None
            else:
                narrower = after > before if keyword in _LOWER else after < before
            yield Change(
                pointer, f"{keyword}: {before} became {after}", _BREAKS_BACKWARD if narrower else _BREAKS_FORWARD
            )


def _object(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required, then = set(old.get("required", [])), set(new.get("required", []))
    open_before, open_after = old.get("additionalProperties", True), new.get("additionalProperties", True)
    for name in sorted(before.keys() | after.keys()):
        below = f"{pointer}/{name}"
        if name not in before:
            breaks = _BREAKS_BACKWARD if name in then or open_before is not False else _NONE
            yield Change(below, f"{'required' if name in then else 'optional'} property added", breaks)
        elif name not in after:
            breaks = _BOTH if name in required or open_after is not False else _BREAKS_BACKWARD
            yield Change(below, f"{'required' if name in required else 'optional'} property removed", breaks)
        else:
            yield from schema_changes(before[name], after[name], below)
    for name in sorted(required ^ then):
        if (name in before) == (name in after):
            became, breaks = ("optional", _BREAKS_FORWARD) if name in required else ("required", _BREAKS_BACKWARD)
            yield Change(f"{pointer}/{name}", f"property made {became}", breaks)
    yield from _openness(open_before, open_after, pointer)


def _openness(old: Any, new: Any, pointer: str) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from schema_changes(old, new, f"{pointer}/*")
    elif old is False or new is True:
        yield Change(pointer, "object opened: unknown properties are allowed", _BREAKS_FORWARD)
    else:
        yield Change(pointer, "object closed: fewer unknown properties are allowed", _BREAKS_BACKWARD)


def _items(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = old.get("items", {}), new.get("items", {})
    if isinstance(before, dict) and isinstance(after, dict):
        if before != after:
            yield from schema_changes(before, after, f"{pointer}/*")
    elif before != after:  # true or false instead of a schema
        yield Change(pointer, "items changed: no rule covers it", _BOTH)
