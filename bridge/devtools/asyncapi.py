"""Renders the contract as an AsyncAPI 3.0 document (`schemas/asyncapi.yaml`) from the schema files.

Each topic is a channel with its Kafka binding, and has one message with its key, its CloudEvents headers, its
schema by reference (`./<event type>.json`), and examples of `examples/`. The bridge sends all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import yaml

from bridge.contract.converters import MAX_KEY_CHARS

if TYPE_CHECKING:
    from bridge.contract.schemas import Contract, Topic

FILE = "asyncapi.yaml"
_BINDING_VERSION = "0.5.0"
_COMMENT = "# Generated from the schema files by `gumlet-bridge schemas asyncapi --write`: change those, not this.\n"
_KIND = {"retention.ms": int, "retention.bytes": int, "delete.retention.ms": int, "max.message.bytes": int}
"""Topic settings that are text in Kafka and numbers in the binding."""
_MAX_EXAMPLES = 3
"""Examples of a message in the document: all of them are in `examples/`."""

_INTRODUCTION = """\
Gumlet's webhooks as records on Kafka. Each record is a CloudEvent 1.0 in the Kafka protocol binding's binary mode:
the attributes are headers, the value is the JSON that the channel's schema describes.

Delivery is at least once: a duplicate has the same `ce_id`. Records of one key are in one partition, in the order of
their receipt. Read the schemas as open: ignore properties that you do not know. `README.md` next to this file has
the consumer's guide and every field.
"""


def _text_header(description: str, **constraints: Any) -> dict[str, Any]:
    return {"type": "string", **constraints, "description": description}


_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_dataschema", "content-type"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": _text_header(
            "Derived from the source and the content: the same for each duplicate of an event.",
            pattern="^[0-9a-f]{32}$",
        ),
        "ce_source": _text_header(
            "`//gumlet.com/webhooks/` and the source in the webhook's URL (`default`: it has none), percent-encoded.",
            format="uri-reference",
        ),
        "ce_type": _text_header("`com.gumlet.` and the event type."),
        "ce_subject": _text_header(
            "The record's key. Absent from a record without a key, and where the key holds a control character or a "
            "noncharacter, which no CloudEvents attribute may hold.",
            maxLength=MAX_KEY_CHARS,
        ),
        "ce_time": _text_header(
            "When the bridge received the event, in UTC with milliseconds and `Z`: also the record's timestamp.",
            format="date-time",
        ),
        "ce_dataschema": _text_header(
            "The schema and its version: `urn:gumlet-kafka-bridge:<event type>:<version>`.", format="uri"
        ),
        "ce_origin": _text_header(
            "Absent from delivered events. `reconciliation`: built by `gumlet-bridge reconcile` from Gumlet's API, "
            "because the delivery is missing; the id is then derived from the source, the type and the asset. "
            "An open set.",
            examples=["reconciliation"],
        ),
        "content-type": {"type": "string", "const": "application/json"},
        "traceparent": _text_header(
            "W3C trace context of the request that delivered the event. Only if the bridge traces (OpenTelemetry)."
        ),
        "__value_schema_id": {
            "description": "Only in the wire format `header`: 17 bytes, not UTF-8 text. The first is 1, the others are "
            "the schema's GUID in the registry."
        },
    },
}


def render(contract: Contract) -> str:
    """Return the document as YAML."""
    return _COMMENT + yaml.dump(
        document(contract), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
    )


def document(contract: Contract) -> dict[str, Any]:
    """Return the document as a JSON object."""
    topics = sorted(contract.topics.values(), key=lambda topic: topic.name)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:gumlet-kafka-bridge",
        "info": {
            "title": "gumlet-kafka-bridge",
            # The document's version: each message's own is in its ce_dataschema.
            "version": str(max(topic.version for topic in topics)),
            "description": _INTRODUCTION,
        },
        "defaultContentType": "application/json",
        "channels": {topic.event_type: _channel(topic) for topic in topics},
        "operations": {f"send-{topic.event_type}": _operation(topic) for topic in topics},
        "components": {
            "messages": {topic.event_type: _message(topic) for topic in topics},
            "messageTraits": {"cloudevent": {"headers": _HEADERS}},
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks and never uses aliases: people read the document too."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:  # noqa: FBT001, FBT002 - the overridden signature
        del indentless
        return super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _channel(topic: Topic) -> dict[str, Any]:
    binding: dict[str, Any] = {"topic": topic.name}
    if topic.partitions:
        binding["partitions"] = topic.partitions
    binding["topicConfiguration"] = {
        name: value.split(",") if name == "cleanup.policy" else _KIND.get(name, str)(value)
        for name, value in sorted(topic.config.items())
    }
    return {
        "address": topic.name,
        "title": topic.schema["title"],
        "description": topic.schema["description"],
        "messages": {topic.event_type: {"$ref": f"#/components/messages/{topic.event_type}"}},
        "bindings": {"kafka": binding | {"bindingVersion": _BINDING_VERSION}},
    }


def _operation(topic: Topic) -> dict[str, Any]:
    # No JSON pointer escapes: a topic's name has no slash and no tilde.
    channel = f"#/channels/{topic.event_type}"
    return {
        "action": "send",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{topic.event_type}"}],
    }


def _message(topic: Topic) -> dict[str, Any]:
    key = {
        "type": "string",
        "maxLength": MAX_KEY_CHARS,
        "description": topic.schema["x-topic"].get("key_description", ""),
    }
    folder = topic.path.parent / "examples" / topic.event_type
    examples = [
        {"name": path.name.removesuffix(".out.json"), "payload": orjson.loads(path.read_bytes())}
        for path in sorted(folder.glob("*.out.json"))
    ]
    small = sorted(examples, key=lambda example: len(orjson.dumps(example)))[:_MAX_EXAMPLES]
    return {
        "name": f"com.gumlet.{topic.event_type}",
        "title": topic.schema["title"],
        "summary": topic.schema["description"],
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudevent"}],
        "payload": {"$ref": f"./{topic.path.name}"},
        "bindings": {"kafka": {"key": key, "bindingVersion": _BINDING_VERSION}},
        "examples": small,
        "x-dataschema": topic.dataschema,
    }
