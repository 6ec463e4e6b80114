"""Whether two states of the contract go together, topic by topic, by rules that are only here.

Two questions, in the usual terms. `BACKWARD`: are old records valid for the new schema, so that a consumer of the
new one can read what lies on the topic? `FORWARD`: do old consumers understand new records? Within a version both must
hold (`FULL`): a change that breaks either needs a new version, which is a new topic beside the old.

A consumer reads objects as open, as the guide tells it: an optional property that is new breaks nothing.
The rules are in `RULES`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.contract.references import expanded
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
| values allowed that were not: type or bounds widened, enum grown, `pattern` or `format` dropped | FORWARD |
| values refused that were allowed: narrowed, enum shrunk, `pattern` or `format` added | BACKWARD |
| values changed otherwise: another type, `const`, `pattern` or `format` | both |
| object closed that was open | BACKWARD |
| object opened that was closed | FORWARD |
| topic removed; its key, partitions or cleanup policy changed | both |
| topic added; retention or other configuration changed | nothing |
| any keyword that the rules do not know, added, removed or changed | both |
"""
"""As the contract's page has them; the tests have a case for each."""
BACKWARD = "BACKWARD"
FORWARD = "FORWARD"
_BOTH = frozenset({BACKWARD, FORWARD})
_NONE: frozenset[str] = frozenset()
_BREAKS_BACKWARD = frozenset({BACKWARD})
_WIDENS = frozenset({FORWARD})

_LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_UPPER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_RESTRICTIONS = {"pattern", "format", "contentEncoding", "contentMediaType", "multipleOf", "uniqueItems"}
_ANNOTATIONS = {"title", "description", "examples", "default", "deprecated", "$comment", "$schema", "$id"}
_STRUCTURE = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_KINDS = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_ORDER = ("key", "partitions")
_MISSING = object()


class Change(NamedTuple):
    """One difference: where in the record, what in words, and what it breaks (nothing: it is harmless)."""

    pointer: str
    what: str
    breaks: frozenset[str]


class TopicCompatibility(NamedTuple):
    """What became of one topic. `raised`: the version is higher, so that whatever changed is on a new topic."""

    event_type: str
    old_version: int | None
    new_version: int | None
    changes: list[Change]

    @property
    def raised(self) -> bool:
        """Whether the schema has a new version."""
        return None not in (self.old_version, self.new_version) and self.new_version > self.old_version  # type: ignore[operator]

    @property
    def breaks(self) -> frozenset[str]:
        """What the changes break together."""
        return frozenset(chain.from_iterable(change.breaks for change in self.changes))

    @property
    def allowed(self) -> bool:
        """Whether the change may be made as it is."""
        return self.raised or not self.breaks


def compare(old: Files, new: Files) -> list[TopicCompatibility]:
    """Return what became of each topic that changed, in the order of their names."""
    verdicts = []
    for name in sorted((old.keys() | new.keys()) - {COMMON}):
        verdict = _verdict(name.removesuffix(".json"), old.get(name), new.get(name), old, new)
        if verdict.changes:
            verdicts.append(verdict)
    return verdicts


def _verdict(
    event_type: str, old: dict[str, Any] | None, new: dict[str, Any] | None, old_files: Files, new_files: Files
) -> TopicCompatibility:
    if old is None or new is None:
        change = Change("", "topic added", _NONE) if old is None else Change("", "topic removed", _BOTH)
        return TopicCompatibility(event_type, _version(old), _version(new), [change])
    changes = [*_topic(old.get("x-topic", {}), new.get("x-topic", {}))]
    changes += schema_changes(expanded(old, old_files), expanded(new, new_files))
    return TopicCompatibility(event_type, _version(old), _version(new), changes)


def _version(schema: dict[str, Any] | None) -> int | None:
    return None if schema is None else int(schema.get("x-topic", {}).get("version", 1))


def _topic(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield what changed of the topic itself."""
    for name in _ORDER:
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
    """Yield each difference between two schemas whose references are already followed."""
    yield from _values(old, new, pointer)
    yield from _bounds(old, new, pointer)
    yield from _object(old, new, pointer)
    yield from _items(old, new, pointer)
    for keyword in sorted(old.keys() | new.keys()):
        before, after = old.get(keyword, _MISSING), new.get(keyword, _MISSING)
        if before is not after and before != after:
            if keyword in _ANNOTATIONS or keyword.startswith("x-"):
                if keyword != "x-topic":  # told by name
                    yield Change(pointer, f"{keyword} changed", _NONE)
            elif keyword not in _STRUCTURE | _LOWER | _UPPER | _RESTRICTIONS:
                yield Change(pointer, f"{keyword} changed: there is no rule for it", _BOTH)


def _values(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = _kinds(old), _kinds(new)
    if before != after:
        breaks = (_NONE if before <= after else _BREAKS_BACKWARD) | (_NONE if after <= before else _WIDENS)
        yield Change(pointer, f"type: {_type(old)} became {_type(new)}", breaks)
    listed, then = _listed(old), _listed(new)
    if listed != then:
        breaks = (_NONE if _subset(listed, then) else _BREAKS_BACKWARD) | (_NONE if _subset(then, listed) else _WIDENS)
        yield Change(pointer, f"values: {_words(listed)} became {_words(then)}", breaks)
    for keyword in sorted(_RESTRICTIONS):
        if old.get(keyword) != new.get(keyword):
            breaks = _BREAKS_BACKWARD if keyword not in old else _WIDENS if keyword not in new else _BOTH
            yield Change(pointer, f"{keyword}: {old.get(keyword)} became {new.get(keyword)}", breaks)


def _kinds(schema: dict[str, Any]) -> frozenset[str]:
    """Return the kinds of value that a schema takes. Every integer is a number too."""
    declared = schema.get("type", list(_KINDS))
    kinds = frozenset([declared] if isinstance(declared, str) else declared)
    return kinds | {"integer"} if "number" in kinds else kinds


def _type(schema: dict[str, Any]) -> Any:
    return schema.get("type", "any")


def _listed(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _subset(part: list[Any] | None, whole: list[Any] | None) -> bool:
    return whole is None or (part is not None and all(value in whole for value in part))


def _words(listed: list[Any] | None) -> str:
    return "any" if listed is None else ", ".join(map(str, listed))


def _bounds(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    for keyword in sorted(_LOWER | _UPPER):
        before, after = old.get(keyword), new.get(keyword)
        if before != after:
            if before is None or after is None:
                narrower = before is None
            else:
                narrower = after > before if keyword in _LOWER else after < before
            yield Change(pointer, f"{keyword}: {before} became {after}", _BREAKS_BACKWARD if narrower else _WIDENS)


def _object(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required, then = set(old.get("required", [])), set(new.get("required", []))
    open_before, open_after = old.get("additionalProperties", True), new.get("additionalProperties", True)
    for name in sorted(before.keys() | after.keys()):
        place = f"{pointer}/{name}"
        if name not in before:
            breaks = _BREAKS_BACKWARD if name in then or open_before is not False else _NONE
            yield Change(place, f"{'required' if name in then else 'optional'} property added", breaks)
        elif name not in after:
            breaks = _BOTH if name in required or open_after is not False else _BREAKS_BACKWARD
            yield Change(place, f"{'required' if name in required else 'optional'} property removed", breaks)
        else:
            yield from schema_changes(before[name], after[name], place)
    for name in sorted(required ^ then):
        if (name in before) == (name in after):
            became, breaks = ("optional", _WIDENS) if name in required else ("required", _BREAKS_BACKWARD)
            yield Change(f"{pointer}/{name}", f"property made {became}", breaks)
    yield from _openness(open_before, open_after, pointer)


def _openness(old: Any, new: Any, pointer: str) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from schema_changes(old, new, f"{pointer}/*")
    elif old is False or new is True:
        yield Change(pointer, "object opened: it may hold unknown properties", _WIDENS)
    else:
        yield Change(pointer, "object closed: it may hold fewer unknown properties", _BREAKS_BACKWARD)


def _items(old: dict[str, Any], new: dict[str, Any], pointer: str) -> Iterator[Change]:
    before, after = old.get("items", {}), new.get("items", {})
    if isinstance(before, dict) and isinstance(after, dict):
        if before != after:
            yield from schema_changes(before, after, f"{pointer}/*")
    elif before != after:  # true or false in place of a schema
        yield Change(pointer, "items changed: there is no rule for it", _BOTH)
