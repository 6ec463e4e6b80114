"""The contract's files, and what is read from them, for the tests of the contract."""

from __future__ import annotations

import re
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from hypothesis import strategies as st

from bridge.contract.schemas import Contract, schemas_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.object_mapping import ObjectMapping


CONTRACT = Contract.load()
COMMON = orjson.loads((schemas_directory() / "common.json").read_bytes())
DAY_MS = 86_400_000
INTERNAL_KEYWORDS = {"dead-letter", "unrecognized"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a reference to the shared definitions."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    assert reference.startswith(("common.json#/$defs/", "#/$defs/"))
    target = COMMON["$defs"][reference.rpartition("/")[2]]
    assert isinstance(target, dict)
    return resolved(target)


def properties(schema: dict[str, Any], pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every property of a schema and those below it, each with its pointer into the record."""
    for name, reference in schema.get("properties", {}).items():
        found = resolved(reference)
        yield f"{pointer}/{name}", found
        yield from properties(found, f"{pointer}/{name}")
        if "items" in found:
            yield from properties(resolved(found["items"]), f"{pointer}/{name}/0")


def sources(mapping: ObjectMapping, record: str = "", delivered: str = "") -> Iterator[tuple[str, str]]:
    """Yield the pointers into the record and the body that a mapping connects."""
    for raw, rule in mapping.rules.items():
        for name in rule.names:
            yield f"{record}/{name}", f"{delivered}/{raw}"
            if rule.inner is not None:
                index = "/0" if name == "warnings" else ""
                yield from sources(rule.inner, f"{record}/{name}{index}", f"{delivered}/{raw}")


def edit(path: Path, **changes: Any) -> None:
    """Change top-level members of a schema file, or of its x-topic block (`x_topic`)."""
    schema = orjson.loads(path.read_bytes())
    schema["x-topic"] |= changes.pop("x_topic", {})
    path.write_bytes(orjson.dumps(schema | changes))


TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat(timespec="milliseconds")[:23] + "Z")
IN_THE_FORM_OF_A_TIME = st.from_regex(re.compile(COMMON["$defs"]["created_at"]["pattern"], re.ASCII), fullmatch=True)


def accepts_time(text: str) -> bool:
    """Whether a record with this time is valid."""
    record = {"type": "video.status.ready", "asset_id": "a", "tags": [], "warnings": [], "created_at": text}
    return CONTRACT.topics["video.status.ready"].first_violation(record) is None
