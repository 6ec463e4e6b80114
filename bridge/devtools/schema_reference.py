"""Renders the schema reference for people (`schemas/README.md`) from the schema files.

The consumer's guide is the template next to this file. The table of topics, and each property of each record (type,
unit, presence, meaning, its source in Gumlet's body) are added. Topics whose records have the same properties share a
table.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from bridge.contract.references import dereference, read_files
from bridge.contract.schemas import DEAD_LETTER, UNRECOGNIZED
from bridge.devtools.schema_compatibility import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.schemas import Contract, Topic

FILE = "README.md"
TEMPLATE = Path(__file__).with_name("schema_reference.template.md")
_DAY_MS = 86_400_000
_ANY_TYPES = (0, 5, 6)
"""Numbers of JSON types that a schema of any value lists: none, all but null, all."""
_UNITS = {"_bytes": "bytes", "_seconds": "s", "_pixels": "px", "_percent": "%"}
_FAMILIES = {
    "live.": "Live streams: `live.video.status.*`",
    "video.": "Videos: `video.status.*`",
    "event.": "Product events: `event.*`",
    UNRECOGNIZED: "`unrecognized`",
    DEAD_LETTER: "`dead-letter`",
}
"""The heading of a table of properties, by the prefix of the event type."""


def render(contract: Contract) -> str:
    """Return the page as Markdown."""
    files = read_files(contract.dead_letter.path.parent)
    properties = [
        f"### {_FAMILIES.get(family, f'`{family}`')}\n\n{_table(topics[0], files)}"
        for family, topics in _families(contract).items()
    ]
    return Template(TEMPLATE.read_text()).substitute(
        rules=RULES.strip(), topics=_topics(contract), properties="\n\n".join(properties)
    )


def _topics(contract: Contract) -> str:
    rows = ["| topic | meaning | key | partitions | retention | version |", "|---|---|---|---|---|---|"]
    rows += [_topic(topic) for topic in sorted(contract.topics.values(), key=lambda topic: topic.name)]
    return "\n".join(rows)


def _topic(topic: Topic) -> str:
    description = topic.schema["description"].partition(" The record is the body of Gumlet's webhook")[0]
    required = topic.key in topic.schema.get("required", [])
    key = f"`{topic.key}`{'' if required else ', or none'}" if topic.key else topic.schema["x-topic"]["key_description"]
    retention = int(topic.config.get("retention.ms", "-1"))
    retention_text = f"{retention / _DAY_MS:g} days" if retention > 0 else "unlimited"
    return _row(
        f"[`{topic.name}`]({topic.path.name})",
        description,
        key,
        topic.partitions or "the broker's default",
        retention_text,
        topic.version,
    )


def _families(contract: Contract) -> dict[str, list[Topic]]:
    """Group the topics whose records have the same properties, by the prefix of their types."""
    groups: dict[tuple[str, ...], list[Topic]] = {}
    for topic in contract.topics.values():
        groups.setdefault((_family(topic.event_type), *sorted(topic.schema["properties"])), []).append(topic)
    # Two groups of one family (a type with a property of its own) are named by their types.
    names = [group[0] for group in groups]
    return {
        group[0] if names.count(group[0]) == 1 else ", ".join(topic.event_type for topic in topics): topics
        for group, topics in groups.items()
    }


def _family(event_type: str) -> str:
    return next((family for family in _FAMILIES if event_type.startswith(family)), event_type)


def _table(topic: Topic, files: dict[str, dict[str, Any]]) -> str:
    rows = ["| property | type | unit | presence | meaning | source |", "|---|---|---|---|---|---|"]
    rows += [_row(*cells) for cells in _properties(dereference(topic.schema, files))]
    return "\n".join(rows)


def _properties(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[Any, ...]]:
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
        source = inner.get("x-source")
        if source == "":
            source = "the whole body"
        elif source is not None:
            source = f"`{source}`"
        type_ = "its topic's type" if name == "type" and "const" in inner else _type(inner)
        presence = "always" if name in required else "optional"
        yield f"`{prefix}{name}`", type_, unit, presence, inner["description"], source or "-"
        yield from _properties(inner, f"{prefix}{name}.")
        if isinstance(items := inner.get("items"), dict):
            yield from _properties(items, f"{prefix}{name}[].")


def _type(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("format") == "date-time":
        return "RFC 3339 time"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return "object, open"
    declared = schema.get("type", [])
    kind = (
        declared if isinstance(declared, str) else "any JSON" if len(declared) in _ANY_TYPES else " or ".join(declared)
    )
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return kind
    return f"{kind}, {low} or more" if high is None or high > 2**52 else f"{kind}, {low} to {high}"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
