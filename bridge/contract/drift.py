"""Drift: what Gumlet sends that the contract does not know, counted by event type and place.

Three kinds: a new type, a new field of a known type, a field whose value no longer has its form. No value is ever kept,
only names and JSON types; what Gumlet leaves open, product events and the user's own metadata, is no drift. Bounded:
`MAX_SIGHTINGS` places in all, `MAX_CACHED_SOURCES` of one delivery, names of `MAX_NAME_CHARS` characters; the rest is counted as
`other`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIGHTINGS = 200
MAX_CACHED_SOURCES = 20
MAX_NAME_CHARS = 64
MAX_DEPTH = 4

NEW_TYPE = "new_type"
NEW_FIELD = "new_field"
CHANGED = "changed"

_log = structlog.stdlib.get_logger()


class DriftEntry(NamedTuple):
    """One thing that the contract does not know: `path` is a JSON pointer into Gumlet's body, a list's items as `*`."""

    kind: str
    event_type: str
    path: str


_OTHER = DriftEntry("other", "", "")


class Drift:
    """Counts sightings, and logs each once."""

    def __init__(self) -> None:
        self.counts: dict[DriftEntry, int] = {}
        self._forms: dict[DriftEntry, set[str]] = {}

    def new_type(self, event_type: str | None) -> None:
        """Count a delivery whose type has no topic (None: it says none)."""
        self._record(DriftEntry(NEW_TYPE, _cut(event_type or "(none)"), ""))

    def new_fields(self, event_type: str, rest: dict[str, Any]) -> None:
        """Count the places of what a table did not know."""
        for path, form in islice(_paths(rest), MAX_CACHED_SOURCES):
            seen = self._record(DriftEntry(NEW_FIELD, event_type, path))
            self._forms.setdefault(seen, set()).add(form)

    def changed(self, event_type: str, pointer: str) -> None:
        """Count a value that could not be brought into the contract's form."""
        # The pointer is escaped already.
        tokens = ["*" if token.isdigit() else token[:MAX_NAME_CHARS] for token in pointer.split("/")[: MAX_DEPTH + 1]]
        self._record(DriftEntry(CHANGED, event_type, "/".join(tokens)))

    def report(self) -> list[dict[str, Any]]:
        """Return the sightings as the admin port tells them, the most frequent first."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [
            sighting._asdict() | {"deliveries": count, "forms": sorted(self._forms.get(sighting, ()))}
            for sighting, count in ranked
        ]

    def _record(self, sighting: DriftEntry) -> DriftEntry:
        if sighting not in self.counts:
            if len(self.counts) >= MAX_SIGHTINGS:
                sighting = _OTHER
            if sighting not in self.counts:
                _log.warning("schema_drift", kind=sighting.kind, type=sighting.event_type, path=sighting.path)
        self.counts[sighting] = self.counts.get(sighting, 0) + 1
        return sighting


def _paths(rest: dict[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the places of what was not known with its JSON type; of an object that is new, the places inside it."""
    for name, value in rest.items():
        path = f"{prefix}/{'*' if name.isdigit() else _cut(name)}"
        if isinstance(value, dict) and value and depth < MAX_DEPTH:
            yield from _paths(value, path, depth + 1)
        else:
            yield path, _JSON_TYPES[type(value)]


_JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}


def _cut(name: str) -> str:
    return name[:MAX_NAME_CHARS].replace("~", "~0").replace("/", "~1")
