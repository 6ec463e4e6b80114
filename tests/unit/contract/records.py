"""Deliveries, and the records that they become, for the tests of the normalizer."""

from __future__ import annotations

from typing import Any

import orjson

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract, schemas_directory
from bridge.event import Delivery, Event

RECEIVED_MS = 1_700_000_000_000
CONTRACT = Contract.load()
NORMALIZER = Normalizer(CONTRACT)
EXAMPLES = schemas_directory() / "examples"
ABSENT = object()


def delivery(body: bytes | dict[str, Any], source: str = "default") -> Delivery:
    """Return a delivery of a body, or of an object's JSON."""
    return Delivery(RECEIVED_MS, source, body if isinstance(body, bytes) else orjson.dumps(body))


def event(**fields: Any) -> Event:
    """Return the event of a `ready` body with these fields."""
    return NORMALIZER.event(delivery({"type": "video.status.ready", "asset_id": "a1"} | fields))


def value(result: Event) -> dict[str, Any]:
    """Return the record's value."""
    read = orjson.loads(result.value)
    assert isinstance(read, dict)
    return read


def record(**fields: Any) -> dict[str, Any]:
    """Return the typed record of a `ready` body with these fields."""
    result = event(**fields)
    assert result.event_type == "video.status.ready", result
    return value(result)


def additional(**fields: Any) -> dict[str, Any]:
    """Return what is in `additional` of the typed record of a `ready` body with these fields."""
    found = record(**fields)["additional"]
    assert isinstance(found, dict)
    return found
