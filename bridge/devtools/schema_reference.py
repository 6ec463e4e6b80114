"""The contract as a page for people (`schemas/README.md`), made from the schema files.

A consumer's guide, the table of topics, and each property of each record: type, unit, presence, meaning and the
place in Gumlet's body that it comes from. Topics whose records have the same properties share a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.contract.references import expanded, read_files
from bridge.contract.schemas import DEAD_LETTER, UNRECOGNIZED
from bridge.devtools.schema_compatibility import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.schemas import Contract, Topic

FILE = "README.md"
_DAY_MS = 86_400_000
_UNITS = {"_bytes": "bytes", "_seconds": "s", "_pixels": "px", "_percent": "%"}
_FAMILIES = {
    "live.": "Live streams: `live.video.status.*`",
    "video.": "Videos: `video.status.*`",
    "event.": "Product events: `event.*`",
    UNRECOGNIZED: "`unrecognized`",
    DEAD_LETTER: "`dead-letter`",
}
"""The heading of a table of properties, by how the event type begins."""

_GUIDE = """\
<!-- Made from the schema files by `gumlet-bridge schemas page --write`: change those, not this. -->

# What is on Kafka, and what a consumer can rely on

Each topic has one file here, `<event type>.json` (JSON Schema 2020-12): the record, its key, its topic's
configuration, examples. `examples/<event type>/` shows what Gumlet sent (`*.in.json`) beside the record that it
became (`*.out.json`), and its folder `invalid/` what became a dead letter instead (without its `body_base64`, which is
the file beside it); every pair is a test. `asyncapi.yaml` is the same contract for AsyncAPI's tools, and `bridge
schemas bundle DIRECTORY` writes each schema as one file that needs no other. `consumers/` has whole programs.

## The record
- **Value**: a JSON object in UTF-8, valid against its topic's schema. Where the bridge is set to the wire format
  `confluent`, a zero byte and the 4 bytes of the schema's id in the registry stand before it. Confluent's deserializers
  take them off; anybody else drops five bytes where the first is zero, which in JSON it never is. After a change of
  that setting a topic has records of both kinds.
- **Key**: the topic's key below, in UTF-8; partitioned by murmur2, as Java's clients do. Where the key's property is
  absent, so is the key, and the record may be in any partition. Records never have a null value: no topic has
  tombstones.
- **Timestamp**: when the bridge received the event, in UTC milliseconds.
- **Headers**: CloudEvents 1.0 in the Kafka protocol binding's binary mode.

| header | value |
|---|---|
| `ce_id` | 32 hexadecimal digits, made from the source and the content |
| `ce_source` | `//gumlet.com/webhooks/<source>`: which webhook it came in by |
| `ce_type` | `com.gumlet.<event type>` |
| `ce_subject` | the key; absent where there is none, or where it holds a control character |
| `ce_time` | when the bridge received it (RFC 3339, UTC): Gumlet does not say when it happened |
| `ce_dataschema` | `urn:gumlet-kafka-bridge:<event type>:<version>` |
| `ce_origin` | `reconciliation`: never delivered, made by `gumlet-bridge reconcile` from Gumlet's API; absent otherwise |
| `ce_specversion`, `content-type` | `1.0`, `application/json` |
| `__value_schema_id` | only in the wire format `header`: a byte of one, then the 16 bytes of the schema's GUID |

## To write a correct consumer
1. **Repeats come.** Delivery is at least once: Gumlet sends again what it got no answer to, the bridge sends again
   what Kafka did not confirm. A repeat has the same `ce_id` (and source), the same key and so the same partition; its
   `ce_time` may differ. Remember the ids that you have handled, as long as a repeat can come (Gumlet tries for 24
   hours, and events may have waited for Kafka: some days are safe), or make handling twice do no harm. Two real
   events with the same content (two `repackaged` in a row) share an id. What `gumlet-bridge reconcile` made
   (`ce_origin: reconciliation`) has an id of its source, type and asset, and the time at which it was made: should
   the delivery come all the same, it has another id.
2. **Order is per key and topic,** and it is the order of receipt. Gumlet promises none and retries half an hour
   later, so an older event can arrive after a newer one. Between topics there is no order. With several replicas of
   the bridge there is none between two events that different replicas received. Take a state from the latest record
   only where that does no harm; a deletion is final, whatever arrives after it.
3. **Ignore what you do not know**: read objects as open. Do not set `additionalProperties: false`, or an equal of it,
   to work in your code, though the schemas say so: they are closed for the bridge, which validates what it sends.
4. **`status`, error codes and warning codes are open sets**: have a branch for words that you do not know. Decide by
   the topic or `type`.
5. **Absent means not known.** No property of ours is null; what Gumlet sent as null is absent. `tags` and `warnings`
   are always there.
6. **`additional` promises nothing.** It holds what the contract does not know, as delivered. A property may move from
   there into the contract without notice, and is then no longer in `additional`.
7. **Commit offsets after the work is done,** not before.

## What may change without notice
A new topic; a new optional property, also one that was in `additional` before; new words in open sets; wording,
titles and examples.

## What never changes within a version
The topic's name, key, number of partitions and cleanup policy; a property's name, type, unit, meaning and bounds;
whether it is always present; the headers above, and what an id is made of. `gumlet-bridge schemas check` compares two states
of these files, and `make check` runs it: whatever would break a consumer or make an old record invalid needs a new
version.

**A new version is a new topic beside the old**: `gumlet.video.status.ready.v2` next to `gumlet.video.status.ready`,
and `ce_dataschema` says 2. The old topic keeps its records until their retention ends and gets no new ones: read it
to its end, then go on with the new one. A type that gets its first topic leaves `gumlet.unrecognized` in the same
way.
"""

_COMPATIBILITY = """\
## What counts as compatible
`gumlet-bridge schemas check --against <git reference or directory>` names every change and what it breaks. BACKWARD: old
records are valid for the new schema. FORWARD: old consumers, which read objects as open, understand new records. Within
a version both hold."""


def render(contract: Contract) -> str:
    """Return the page as Markdown."""
    files = read_files(contract.dead_letter.path.parent)
    parts = [_GUIDE, _COMPATIBILITY, RULES, "## Topics", _topics(contract), "## Properties", _LEGEND]
    for family, topics in _families(contract).items():
        parts += [f"### {_FAMILIES.get(family, f'`{family}`')}", _table(topics[0], files)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_LEGEND = """\
`a.b` is property `b` of object `a`, `a[]` an item of list `a`. **Always**: in every record (of an object: whenever the
object is there). The source is a JSON pointer into the body that Gumlet sent; `-` is the bridge's own value."""


def _topics(contract: Contract) -> str:
    rows = ["| topic | what happened | key | partitions | kept | version |", "|---|---|---|---|---|---|"]
    rows += [_topic(topic) for topic in sorted(contract.topics.values(), key=lambda topic: topic.name)]
    return "\n".join(rows)


def _topic(topic: Topic) -> str:
    about = topic.schema["description"].partition(" The record is what Gumlet's webhook said")[0]
    required = topic.key in topic.schema.get("required", [])
    key = f"`{topic.key}`{'' if required else ', or none'}" if topic.key else topic.schema["x-topic"]["key_description"]
    retention = int(topic.config.get("retention.ms", "-1"))
    kept = f"{retention / _DAY_MS:g} days" if retention > 0 else "for ever"
    return _row(
        f"[`{topic.name}`]({topic.path.name})",
        about,
        key,
        topic.partitions or "the broker's default",
        kept,
        topic.version,
    )


def _families(contract: Contract) -> dict[str, list[Topic]]:
    """Group the topics whose records have the same properties, by how their types begin."""
    groups: dict[tuple[str, ...], list[Topic]] = {}
    for topic in contract.topics.values():
        groups.setdefault((_family(topic.event_type), *sorted(topic.schema["properties"])), []).append(topic)
    # Two groups of one family (a type with a property of its own) have their first types as their names.
    names = [group[0] for group in groups]
    return {
        group[0] if names.count(group[0]) == 1 else ", ".join(topic.event_type for topic in topics): topics
        for group, topics in groups.items()
    }


def _family(event_type: str) -> str:
    return next((family for family in _FAMILIES if event_type.startswith(family)), event_type)


def _table(topic: Topic, files: dict[str, dict[str, Any]]) -> str:
    rows = ["| property | type | unit | presence | meaning | source |", "|---|---|---|---|---|---|"]
    rows += [_row(*cells) for cells in _properties(expanded(topic.schema, files))]
    return "\n".join(rows)


def _properties(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[Any, ...]]:
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        place = prefix + name
        unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
        source = inner.get("x-source")
        if source == "":
            source = "the whole body"
        elif source is not None:
            source = f"`{source}`"
        type_ = "its topic's type" if name == "type" and "const" in inner else _type(inner)
        presence = "always" if name in required else "optional"
        yield f"`{place}`", type_, unit, presence, inner["description"], source or "-"
        yield from _properties(inner, f"{place}.")
        if isinstance(items := inner.get("items"), dict):
            yield from _properties(items, f"{place}[].")


def _type(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("format") == "date-time":
        return "RFC 3339 time"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return "object, open"
    declared = schema.get("type", [])
    kind = declared if isinstance(declared, str) else "any JSON" if len(declared) % 6 == 0 else " or ".join(declared)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return kind
    return f"{kind}, {low} or more" if high is None or high > 2**52 else f"{kind}, {low} to {high}"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
