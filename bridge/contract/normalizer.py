"""The normalizer: what Gumlet delivered becomes one Kafka record, whatever it was.

A pure core without I/O, but that it tells a `Drift` what is new. The laws:

1. `Normalizer.event` returns exactly one event and never raises: a typed record that validates against its
   schema, else (a JSON object whose type has no topic) an unrecognized record, else a dead letter.
2. A typed or unrecognized record's value depends on nothing but the JSON that was delivered: not on the time,
   the source, the order of the keys or the space between them. The id depends on that and the source.
3. Nothing is dropped: what the tables do not know is in `additional`, and a dead letter holds the raw body.

To add a type: its schema file with its examples in `schemas/`, and a line in `bridge/mappings.py`.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson

from bridge.contract.converters import rfc3339, text
from bridge.contract.mappings import MAPPINGS, PRODUCT
from bridge.errors import ContractError
from bridge.event import Delivery, Event, canonical, content_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge.contract.drift import Drift
    from bridge.contract.schemas import Contract, Topic

TYPE_FIELDS = ("type", "event", "event_type")
"""Where a body says its type: the first that is not null counts."""
_SUBJECTS = ("asset_id", "live_asset_id")
"""Where a body of no known type says what it is about."""
MAX_DEAD_LETTER_NAME_CHARS = 256
"""Characters of a delivered name that a dead letter repeats: it must not be too large itself."""
MAX_KEY_CHARS = 256
"""Characters of an id that is used as a Kafka key."""
BODY_PREFIX_BYTES = 512
"""Bytes of a body that a dead letter without its body repeats."""
MAX_DETAIL_CHARS = 1000
"""Characters of a dead letter's detail and pointer."""

MAX_RECEIPT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_NOT_IN_ATTRIBUTES = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters and noncharacters, which CloudEvents allows in no attribute."""


class _TooDeepError(Exception):
    """A JSON value nests deeper than can be encoded: the parser takes 1024 levels, the encoder 254."""

    detail = "the body has more levels than can be encoded, which are about 250"


class _Route(NamedTuple):
    """A topic, and the headers that are the same in each of its events."""

    topic: Topic
    headers: list[tuple[str, bytes]]


class Normalizer:
    """Makes the Kafka record of a delivery. Raises `ContractError` if `MAPPINGS` and the contract differ."""

    def __init__(self, contract: Contract, drift: Drift | None = None) -> None:
        """`drift` is told what the contract does not know."""
        self._drift = drift
        reserved = {contract.dead_letter.event_type, contract.unrecognized.event_type}
        if unfiled := MAPPINGS.keys() - contract.topics.keys():
            raise ContractError(f"{min(unfiled)}.json is missing: the type is normalized, and has no topic")
        if unmapped := contract.topics.keys() - reserved - MAPPINGS.keys():
            path = contract.topics[min(unmapped)].path
            raise ContractError(f"{path}: no mapping of {min(unmapped)} is known to the normalizer")
        self._typed = {name: (_route(contract.topics[name]), table) for name, table in MAPPINGS.items()}
        self._unrecognized = _route(contract.unrecognized)
        self._dead_letter = _route(contract.dead_letter)

    @property
    def dead_letter_topic(self) -> str:
        """The whole name of the topic for what cannot be published as it is."""
        return self._dead_letter.topic.name

    def event(self, delivery: Delivery) -> Event:
        """Return the one event that `delivery` becomes."""
        try:
            return self._event(delivery)
        except orjson.JSONDecodeError as error:
            # JSON that is too deep for the parser is told apart from what is no JSON.
            if "depth" in error.msg or "recursion" in error.msg.lower():
                return self.dead_letter(delivery, "nesting_too_deep", _TooDeepError.detail)
            return self.dead_letter(delivery, "invalid_json", str(error))
        except _TooDeepError as error:
            return self.dead_letter(delivery, "nesting_too_deep", error.detail)
        except Exception as error:  # noqa: BLE001 - our own mistake must not hold up every event behind this one
            return self.dead_letter(delivery, "internal_error", f"{type(error).__name__} in the normalizer")

    def dead_letter(self, delivery: Delivery, reason: str, detail: str, pointer: str | None = None) -> Event:
        """Return the event that holds the raw body, for a delivery that cannot be published as a record of its type.

        `reason` is one word of an open set (`schemas/dead-letter.json` lists them), `detail` explains it in a
        sentence, `pointer` names the place in the delivered body. The id and the key are those that the record
        would have had; an id of more than `MAX_KEY_CHARS` characters is not used as a key. Never raises.
        """
        body = {"body_base64": b64encode(delivery.body).decode()}
        return self._dead_letter_event(delivery, reason, detail, pointer, body)

    def dead_letter_without_body(self, delivery: Delivery, reason: str, detail: str) -> Event:
        """Return a dead letter with the size, the SHA-256 and the first bytes of the body instead of the body.

        It is small whatever was delivered: for a dead letter that Kafka rejects with its body. Never raises.
        """
        body = {
            "body_base64": "",
            "body_bytes": len(delivery.body),
            "body_sha256": hashlib.sha256(delivery.body).hexdigest(),
            "body_prefix_base64": b64encode(delivery.body[:BODY_PREFIX_BYTES]).decode(),
        }
        return self._dead_letter_event(delivery, reason, detail, None, body)

    def _dead_letter_event(
        self, delivery: Delivery, reason: str, detail: str, pointer: str | None, body: dict[str, Any]
    ) -> Event:
        document, content = None, delivery.body
        with suppress(Exception):  # whatever is wrong with the body: the dead letter must still be built
            document = orjson.loads(delivery.body)
            content = _encode(document)
        _, event_type = _type_of(document) if isinstance(document, dict) else ("", None)
        typed = self._typed.get(event_type) if event_type else None
        fields = (typed[0].topic.key,) if typed and typed[0].topic.key else _SUBJECTS
        subject = _asset_id(document, fields) if isinstance(document, dict) else None
        if subject and len(subject) > MAX_KEY_CHARS:
            subject = None  # a part of an id would be another id
        record = {
            "reason": _encodable(reason),
            "detail": _encodable(detail[:MAX_DETAIL_CHARS]),
            "pointer": None if pointer is None else _encodable(pointer[:MAX_DETAIL_CHARS]),
            "source": _encodable(delivery.source),
            "received_at": _receipt_time(delivery.received_ms),
            "event_type": None if event_type is None else event_type[:MAX_DEAD_LETTER_NAME_CHARS],
            "asset_id": subject,
            **body,
        }
        value = _encode({name: value for name, value in record.items() if value is not None})
        return _build_event(self._dead_letter, delivery, content_id(delivery.source, content), value, subject)

    def _event(self, delivery: Delivery) -> Event:
        document = orjson.loads(delivery.body)
        if type(document) is not dict:
            return self.dead_letter(delivery, "not_an_object", "the body is JSON, and not an object")
        event_id = content_id(delivery.source, _encode(document))
        field, event_type = _type_of(document)
        if event_type is None or event_type not in self._typed:
            about = {} if event_type is None else {"type": event_type}
            value = _encode(about | {"event": document})
            if self._drift:
                self._drift.new_type(event_type)
            return _build_event(self._unrecognized, delivery, event_id, value, _asset_id(document, _SUBJECTS))

        route, table = self._typed[event_type]
        record, rest = table.read(document)
        record["type"] = event_type
        if field != "type":
            rest.pop(field, None)
        if rest:
            record["additional"] = rest
        # Encoded first: what nests too deeply to be encoded is not given to the validator.
        value = _encode(record)
        if violation := route.topic.violation(record):
            pointer = table.pointer(violation.pointer, document)
            if self._drift:
                self._drift.changed(event_type, pointer)
            return self.dead_letter(delivery, "schema_violation", violation.detail, pointer)
        if rest and self._drift and table is not PRODUCT:  # Gumlet leaves product events open
            self._drift.new_fields(event_type, rest)
        subject = record.get(route.topic.key) if route.topic.key else None
        return _build_event(route, delivery, event_id, value, subject)


def _encode(document: Any) -> bytes:
    try:
        return canonical(document)
    except orjson.JSONEncodeError as error:  # which is TypeError itself: it must not be caught around more than this
        raise _TooDeepError from error


def _type_of(document: dict[str, Any]) -> tuple[str, str | None]:
    """Return the field that says the type, and the type: None where it is no text."""
    for field in TYPE_FIELDS:
        value = document.get(field)
        if value is not None:
            return field, value if type(value) is str else None
    return "type", None


def _asset_id(document: dict[str, Any], fields: Iterable[str]) -> str | None:
    """Return the id of what an event is about, from the first of `fields` that has one."""
    for field in fields:
        value = text(document.get(field))
        if type(value) is str and value:
            return value
    return None


def _route(topic: Topic) -> _Route:
    return _Route(
        topic,
        [
            ("ce_specversion", b"1.0"),
            ("ce_type", b"com.gumlet." + topic.event_type.encode()),
            ("ce_dataschema", topic.dataschema.encode()),
            ("content-type", b"application/json"),
        ],
    )


def _encodable(value: str) -> str:
    """Return text without what UTF-8 cannot encode (lone surrogates)."""
    return value.encode(errors="replace").decode()


@lru_cache(maxsize=256)
def _source(source: str) -> tuple[str, bytes]:
    # A URI-reference: characters that a URL's path cannot hold are percent-encoded.
    return "ce_source", b"//gumlet.com/webhooks/" + quote(source, safe="", errors="replace").encode()


@lru_cache(maxsize=1024)  # what arrives together is received in the same few milliseconds
def _time(received_ms: int) -> tuple[str, bytes]:
    return "ce_time", _receipt_time(received_ms).encode()


def _receipt_time(received_ms: int) -> str:
    """Return the time of receipt as RFC 3339; a time outside the years 1970 to 9999 becomes the nearest in them."""
    return rfc3339(min(max(received_ms, 0), MAX_RECEIPT_MS))


def _build_event(route: _Route, delivery: Delivery, event_id: str, value: bytes, subject: str | None) -> Event:
    """Put the event together: the binary mode of CloudEvents' Kafka protocol binding."""
    headers = [
        *route.headers,
        ("ce_id", event_id.encode()),
        _source(delivery.source),
        _time(delivery.received_ms),
    ]
    key = None
    if subject is not None:
        key = subject.encode()
        # The binding knows no escape for what an attribute may not hold. The key has the id all the same.
        if subject.isalnum() or not _NOT_IN_ATTRIBUTES.search(subject):
            headers.append(("ce_subject", key))
    if delivery.traceparent:
        headers.append(("traceparent", delivery.traceparent.encode(errors="replace")))
    topic = route.topic
    return Event(topic.name, key, value, headers, delivery.received_ms, topic.event_type, event_id)
