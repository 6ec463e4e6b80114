"""Schema drift: what Gumlet sends that the contract does not know, counted by event type and path.

Input: the types that have no topic, and the rest that a mapping returned. Output: `Drift.counts` for the metrics and
`Drift.report` for the admin port. Three kinds: a new type, a new field of a known type, a field with a value that has
no form in the contract. Only names and JSON types are kept, never a value; product events and the user's own metadata,
which Gumlet leaves open, are not drift. Bounded: `MAX_ENTRIES` entries in all, `MAX_PATHS_PER_DELIVERY` of one
delivery, names of `MAX_NAME_CHARS` characters; everything beyond that is counted as `other`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.object_mapping import ObjectMapping

MAX_ENTRIES = 200
MAX_PATHS_PER_DELIVERY = 20
MAX_NAME_CHARS = 64
MAX_DEPTH = 4

NEW_TYPE = "new_type"
NEW_FIELD = "new_field"
CHANGED = "changed"

_JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
_log = structlog.stdlib.get_logger()


class DriftEntry(NamedTuple):
    """One thing that the contract does not know: `path` is a JSON pointer into Gumlet's body, a list's items as `*`."""

    kind: str
    event_type: str
    path: str


_OTHER = DriftEntry("other", "", "")


class Drift:
    """Counts drift entries, and logs each once."""

    def __init__(self) -> None:
        self.counts: dict[DriftEntry, int] = {}
        self._json_types: dict[DriftEntry, set[str]] = {}

    def record_new_type(self, event_type: str | None) -> None:
        """Count a delivery whose type has no topic (None: it names no type)."""
        self._record(DriftEntry(NEW_TYPE, _escape(event_type or "(none)"), ""))

    def record_rest(self, event_type: str, mapping: ObjectMapping, rest: dict[str, Any]) -> None:
        """Count the paths of the rest that `mapping` returned for a body."""
        for kind, path, json_type in islice(_paths(rest, mapping), MAX_PATHS_PER_DELIVERY):
            entry = self._record(DriftEntry(kind, event_type, path))
            self._json_types.setdefault(entry, set()).add(json_type)

    def report(self) -> list[dict[str, Any]]:
        """Return the entries for the admin port, the most frequent first."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [
            entry._asdict() | {"deliveries": count, "json_types": sorted(self._json_types.get(entry, ()))}
            for entry, count in ranked
        ]

    def _record(self, entry: DriftEntry) -> DriftEntry:
        if entry not in self.counts:
            if len(self.counts) >= MAX_ENTRIES:
                entry = _OTHER
            if entry not in self.counts:
                _log.warning("schema_drift", kind=entry.kind, type=entry.event_type, path=entry.path)
        self.counts[entry] = self.counts.get(entry, 0) + 1
        return entry


def _paths(
    rest: dict[str, Any], mapping: ObjectMapping | None, prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, str, str]]:
    """Yield kind, path and JSON type of everything in the rest; of a new object, of the fields inside it."""
    for name, value in rest.items():
        rule = mapping.rules.get(name) if mapping else None
        is_index = rule is None and name.isdigit()
        path = f"{prefix}/{'*' if is_index else _escape(name)}"
        inner = mapping if is_index else rule.inner if rule else None
        is_nested = isinstance(value, dict) and bool(value) and depth < MAX_DEPTH
        if rule and rule.is_open:
            continue
        if is_nested and (inner or not rule):
            yield from _paths(value, inner, path, depth + 1)
        else:
            yield CHANGED if rule else NEW_FIELD, path, _JSON_TYPES[type(value)]


def _escape(name: str) -> str:
    return name[:MAX_NAME_CHARS].replace("~", "~0").replace("/", "~1")
