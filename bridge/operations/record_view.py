"""Records of Kafka as the commands show them: one dictionary per record, and one line about an event's content.

Pure. Values are the JSON of the contract, whatever the wire format; text is not escaped here.
"""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any

import orjson

from bridge.contract.converters import rfc3339

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

TYPE_PREFIX = "com.gumlet."
MAX_SUMMARY_CHARS = 100
MAX_BEGINNING_CHARS = 40


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
        return describe_dead_letter(event, _decode_base64(event.get("body_base64")))
    if "event" in event:
        return orjson.dumps(event["event"]).decode()[:MAX_SUMMARY_CHARS]
    progress = event.get("progress_percent")
    problems = [event["error"]] if "error" in event else event.get("warnings", [])
    parts = [event.get("status"), None if progress is None else f"{progress}%", event.get("title")]
    parts += [problem.get("code") or problem.get("message") for problem in problems if isinstance(problem, dict)]
    return "  ".join(str(part) for part in parts if part)


def describe_dead_letter(letter: dict[str, Any], body: bytes) -> str:
    """Return a dead letter's reason, place and detail; a detail that only repeats the reason is left out."""
    reason, detail = str(letter["reason"]), str(letter.get("detail") or "")
    place = f" at {letter['pointer']}" if letter.get("pointer") else ""
    if reason == "invalid_json":
        # Only shown here: the detail of the record is logged too, and logs hold no part of a body.
        start = body.decode(errors="replace")
        detail = f"the body is not JSON: it begins with {_shorten(start)!r}" if start.strip() else "the body is empty"
    if _words(detail) <= _words(reason.replace("_", " ")):
        return f"{reason}{place}"
    return f"{reason}{place}: {detail}"


def _decode_base64(text: Any) -> bytes:
    try:
        return b64decode(text)
    except (TypeError, ValueError):
        return b""


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_BEGINNING_CHARS else f"{text[:MAX_BEGINNING_CHARS]}…"


def _words(text: str) -> set[str]:
    return {word.strip(".,:").lower() for word in text.split()} - {"the", "is", "a", "an"}
