"""Records of Kafka as the commands show them: one dictionary per record, one line about an event, dead letters.

Pure. Values are the JSON of the contract, whatever the wire format; text is not escaped here. A dead letter holds the
body, source and receipt time of its delivery, so the current normalizer gives the restored delivery the id and time
that it had originally.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from bridge.contract.converters import rfc3339
from bridge.event import Delivery

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

TYPE_PREFIX = "com.gumlet."
MAX_SUMMARY_CHARS = 100


def record_to_dict(record: ConsumerRecord) -> dict[str, Any]:
    """Return a record as the JSON line that `gumlet-bridge tail` prints."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    try:
        event = orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError:
        event = (record.value or b"").decode(errors="replace")
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "received_at": rfc3339(record.timestamp),
        "id": headers.get("ce_id"),
        "type": headers.get("ce_type", "").removeprefix(TYPE_PREFIX),
        "origin": headers.get("ce_origin"),
        "asset_id": record.key.decode(errors="replace") if record.key is not None else None,
        "event": event,
    }


def summarize(event: Any) -> str:
    """Return a few words about an event's value: status, progress, title and problems, or why it is a dead letter."""
    if not isinstance(event, dict):
        return str(event)[:MAX_SUMMARY_CHARS]
    if "reason" in event and "received_at" in event:
        return describe_dead_letter(event)
    if "event" in event:
        return orjson.dumps(event["event"]).decode()[:MAX_SUMMARY_CHARS]
    progress = event.get("progress_percent")
    problems = [event["error"]] if "error" in event else event.get("warnings", [])
    parts = [event.get("status"), None if progress is None else f"{progress}%", event.get("title")]
    parts += [problem.get("code") or problem.get("message") for problem in problems if isinstance(problem, dict)]
    return "  ".join(str(part) for part in parts if part)


def describe_dead_letter(letter: dict[str, Any]) -> str:
    """Return a dead letter's reason, place and detail."""
    place = f" at {letter['pointer']}" if letter.get("pointer") else ""
    return ": ".join(filter(None, (f"{letter['reason']}{place}", letter.get("detail"))))


class DeadLetter(NamedTuple):
    """One record of the dead-letter topic. `metadata` is its value without the body; `offset` is `partition/offset`."""

    offset: str
    event_id: str
    metadata: dict[str, Any]
    delivery: Delivery

    @classmethod
    def from_record(cls, record: ConsumerRecord) -> DeadLetter | None:
        """Read a record; return None for one that holds no delivery of the bridge."""
        try:
            metadata = orjson.loads(record.value)
            body = b64decode(metadata.pop("body_base64"), validate=True)
            delivery = Delivery(record.timestamp, metadata["source"], body)
            event_id = dict(record.headers)["ce_id"].decode()
        except (ValueError, KeyError, TypeError, AttributeError, Base64Error):
            return None
        return cls(f"{record.partition}/{record.offset}", event_id, metadata, delivery)

    def to_dict(self, *, with_body: bool = False) -> dict[str, Any]:
        """Return what the commands print."""
        body = decode_body(self.delivery.body) if with_body else {}
        return {"offset": self.offset, "id": self.event_id} | self.metadata | body


def decode_body(body: bytes) -> dict[str, Any]:
    """Return a body in readable form without loss: `body` is its JSON or text, otherwise `body_base64`."""
    try:
        return {"body": orjson.loads(body)}
    except orjson.JSONDecodeError:
        pass
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}
