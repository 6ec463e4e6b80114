"""Renders the schema reference for people (`schemas/README.md`) from the schema files.

A consumer's guide, the table of topics, and each property of each record: type, unit, presence, meaning and its source
in Gumlet's body. Topics whose records have the same properties share a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.contract.references import dereference, read_files
from bridge.contract.schemas import DEAD_LETTER, UNRECOGNIZED
from bridge.devtools.schema_compatibility import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.contract.schemas import Contract, Topic

FILE = "README.md"
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

_GUIDE = """\
<!-- Generated from the schema files by `gumlet-bridge schemas docs --write`: change those, not this. -->

# The records on Kafka: reference for authors of consumers

Each topic has one file here, `<event type>.json` (JSON Schema 2020-12): the record, its key, its topic's
configuration, examples. `examples/<event type>/` shows delivered bodies (`*.in.json`) and the records that they
become (`*.out.json`), and in `invalid/` bodies that become dead letters (shown without `body_base64`, which is the
`*.in.json` file); every pair is a test. `asyncapi.yaml` is the same contract for AsyncAPI's tools. `gumlet-bridge schemas
bundle DIRECTORY` writes each schema as one self-contained file, and `any-event.json`, one schema of any typed event
(`oneOf`, decided by `type`), which code generators turn into a tagged union. `consumers/` has complete programs.

## The record
- **Value**: a JSON object in UTF-8, valid against its topic's schema. If the bridge is configured for the wire format
  `confluent`, a zero byte and the 4 bytes of the schema's id in the registry precede it. Confluent's deserializers
  remove them; other consumers drop five bytes if the first byte is zero, with which JSON never begins. After a change
  of that setting a topic holds records of both kinds.
- **Key**: the topic's key below, in UTF-8; partitioned by murmur2, as Java's clients do. If the key's property is
  absent, the record has no key and may be in any partition. No record has a null value: no topic has tombstones.
- **Timestamp**: when the bridge received the event, in UTC milliseconds.
- **Headers**: CloudEvents 1.0 in the Kafka protocol binding's binary mode.

| header | value |
|---|---|
| `ce_id` | 32 hexadecimal digits, derived from the source and the content |
| `ce_source` | `//gumlet.com/webhooks/<source>`: the webhook that received it |
| `ce_type` | `com.gumlet.<event type>` |
| `ce_subject` | the key; absent from a record without a key, or if the key holds a control character |
| `ce_time` | when the bridge received it (RFC 3339, UTC): Gumlet does not send the time of the event |
| `ce_dataschema` | `urn:gumlet-kafka-bridge:<event type>:<version>` |
| `ce_origin` | `reconciliation`: not delivered, but built by `gumlet-bridge reconcile` from Gumlet's API; otherwise absent |
| `ce_specversion`, `content-type` | `1.0`, `application/json` |
| `__value_schema_id` | only in the wire format `header`: a byte of one, then the 16 bytes of the schema's GUID |

### What an id is derived from
The SHA-256 of the source and the delivered JSON, without white space and with sorted keys. So a redelivery has the same
id on every replica. Where JSON parsing loses information (an integer beyond 64 bits, a decimal of more digits than a
64-bit float holds, a duplicate key) the id is derived from the raw body, and the record has the raw body too, as
`body_base64`: the other properties then have the rounded number, or the last of the duplicates. So no two bodies
with different content share an id, and no digit is lost.

### Values that the contract cannot represent
An event is published on its type's topic whenever its type and its key are usable. A value in a form that the contract
does not know (a `progress` of 100.01, a `duration` of `N/A`, `metadata` that is not an object) is in `additional`, as
delivered, and the operator sees its path as schema drift. Only a body that is not a JSON object, or whose type's key is
missing or unusable (not a string or an integer of 1 to 256 characters), is a dead letter. A byte order mark before the
JSON is ignored. The bridge takes the type from `type`, else `event`, else `event_type`, and the key from the top level
only: other forms, such as `data.asset_id`, are not recognized. An object without a known type is published, complete, in
`gumlet.unrecognized`.

### Times
A time in a record is always RFC 3339 in UTC with milliseconds and `Z`, in the years 0001 to 9999, with seconds from 00 to
59: every date library parses it. Gumlet's milliseconds since 1970, seconds since 1970 (a number below 100,000,000,000) and
ISO 8601 text with an offset become that form. Other values are in `additional`.

## To write a correct consumer
1. **Handle duplicates.** Delivery is at least once: Gumlet repeats a delivery that was not answered, and the bridge
   repeats a record that Kafka did not confirm. A duplicate has the same `ce_source` and `ce_id`, the same key and so the
   same partition; its `ce_time` may differ. **The key of a duplicate is the pair of `ce_source` and `ce_id`**, as in
   CloudEvents. Within this bridge `ce_id` alone is sufficient too, since the source is part of what it is derived from.
   Events of `gumlet-bridge reconcile` (`ce_origin: reconciliation`) have an id derived from source, type and asset: if the
   delivery arrives after all, it has another id, so processing must be idempotent in any case.
2. **Remember ids for as long as a duplicate can arrive**: 24 hours of Gumlet's retries, plus the longest time that
   events may wait for Kafka in the bridge. 8 days are safe with the default retention of 7 days. The memory must survive
   a restart of the consumer: store the id in the same transaction as the effect, or make processing idempotent.
3. **Two `repackaged` can share an id.** An asset can be repackaged many times, and Gumlet's body says neither when nor
   which stream. If two bodies are equal, no consumer can distinguish a second event from a redelivery. Treat `repackaged` as
   "read the asset again", not as something to count.
4. **Order is per key and topic**, and it is the order of receipt. Gumlet promises none and retries after half an hour,
   so an older event can arrive after a newer one. There is no order between topics, and with several replicas of the
   bridge none between events that different replicas received. A state must therefore only move forward:

   | rank | type | why |
   |---|---|---|
   | 0 | `created` | first event of an asset |
   | 1 | `downloaded` | the file must exist before it is processed |
   | 2 | `stream_ready` | playable at one resolution; the rest is still processed |
   | 3 | `optimized`, `processed` | not documented; sent for some assets only, before `ready` |
   | 4 | `ready`, `errored`, `repackaged` | processing has ended; `repackaged` means ready with one more stream |
   | 5 | `deleted` | final: nothing that arrives later revives the asset |

   An event with a lower rank than the stored one is late: ignore its state. With the same rank the later `ce_time` wins.
   `errored` can follow any rank below 4. Gumlet documents neither an order nor whether an asset can be processed again:
   the ranks follow from the meaning of the types. Should an asset be processed again under its id, its earlier types have
   lower ranks and are ignored, and the `ready` or `errored` that ends the processing wins by its `ce_time`. Steps may be
   missing: do not wait for them. Live assets have no such order (a stream can connect and disconnect many times): the
   later `ce_time` wins.
5. **Ignore what you do not know**: read objects as open. Do not set `additionalProperties: false`, or an equivalent,
   in your code, though the schemas have it: they are closed for the bridge, which validates the records that it sends.
6. **`status`, error codes and warning codes are open sets**: have a branch for unknown words. Decide by the topic or by
   `type`.
7. **Absent means unknown.** No property of the contract is null; a null of Gumlet's is absent. `tags` and `warnings` are
   always present in `video.status.*`.
8. **`additional` has no stability.** It holds what the contract does not know, as delivered. A property may move from
   there into the contract without notice, and is then no longer in `additional`.
9. **Commit offsets after the work is done,** not before.

## What may change without notice
A new topic; a new optional property, also one that was in `additional` before; new words in open sets; wording,
titles and examples.

## What never changes within a version
The topic's name, key, number of partitions and cleanup policy; a property's name, type, unit, meaning and bounds;
whether it is always present; the headers above, and what an id is derived from. `gumlet-bridge schemas check` compares
two states of these files, and `make check` runs it: a change that breaks a consumer or makes an old record invalid needs a
new version.

**A new version is a new topic**: `gumlet.video.status.ready.v2` next to `gumlet.video.status.ready`,
and `ce_dataschema` says 2. The old topic keeps its records until their retention ends and gets no new ones: read it
to its end, then continue with the new one. A type that gets its first topic is no longer published in
`gumlet.unrecognized`.

**Release 0.1.0 is a beta.** Since then, within version 1 and without a break for consumers: bodies with values that the
contract cannot represent are published with the values in `additional` (they were dead letters); `body_base64` was added
to all topics; transformations, `video.status.processed` and the fields of a dead letter without its body were added; ids of
bodies that parsing would change are derived from the raw body.
"""

_COMPATIBILITY = """\
## What counts as compatible
`gumlet-bridge schemas check --against <git reference or directory>` names every change and what it breaks. BACKWARD: old
records are valid for the new schema. FORWARD: old consumers, which read objects as open, understand new records. Within
a version both must hold.

## Schema registry
With `BRIDGE_REGISTRY_URL` (Confluent, Karapace, Apicurio at `/apis/ccompat/v7`), `gumlet-bridge schemas register`
registers the schemas under `<topic>-value`, whole and in draft 7. `BRIDGE_REGISTRY_WIRE_FORMAT` then makes each record
name its schema: `confluent` (a zero byte and the id in 4 bytes before the JSON) or `header` (the GUID in the header
`__value_schema_id`; Confluent 8.0 or later). Register before a new version of the bridge starts: events of a topic whose
schema is not registered stay on disk.

A topic that switched to `confluent` still holds records of the plain format until their retention ends. Confluent's
deserializer fails on them ("Invalid magic byte"): start its consumers behind the switch, or use another
`BRIDGE_TOPICS_PREFIX`. `gumlet-bridge topics check` warns of such topics."""


def render(contract: Contract) -> str:
    """Return the page as Markdown."""
    files = read_files(contract.dead_letter.path.parent)
    parts = [_GUIDE, _COMPATIBILITY, RULES, "## Topics", _topics(contract), "## Properties", _LEGEND]
    for family, topics in _families(contract).items():
        parts += [f"### {_FAMILIES.get(family, f'`{family}`')}", _table(topics[0], files)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_LEGEND = """\
`a.b` is property `b` of object `a`, `a[]` an item of list `a`. **Always**: in every record (of an object: whenever the
object is present). The source is a JSON pointer into the body that Gumlet sent; `-` is a value of the bridge."""


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
