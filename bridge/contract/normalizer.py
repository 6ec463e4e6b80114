"""The normalizer: a delivery in, one Kafka record out.

It does no I/O; it reports schema drift to a `Drift`. Invariants:

1. `Normalizer.event` returns exactly one event and never raises, whatever the delivery holds: a typed record that is
   valid for its schema, else (a JSON object whose type has no topic) an unrecognized record, else a dead letter.
2. A typed record is a dead letter only where its type's key is missing or unusable. A value that has no form in the
   contract is in `additional`, and its path is schema drift.
3. The value of a typed or unrecognized record depends only on the JSON that was delivered: not on the time, the
   source, the order of keys or white space. The id depends on that and on the source.
4. Nothing is lost: what the mappings do not know is in `additional`; where parsing loses digits or duplicate keys, the
   record has the raw body too (`body_base64`) and the id is derived from the raw body; a dead letter has the raw body.
5. The work is proportional to the size of the body.

To add a type: add its schema file and examples in `schemas/`, and a line in `bridge/contract/mappings.py`.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from base64 import b64encode
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson
import structlog

from bridge.contract.converters import MAX_KEY_CHARS, rfc3339, to_key
from bridge.contract.mappings import MAPPINGS
from bridge.contract.parsing import is_lossless, parse
from bridge.errors import ContractError
from bridge.event import Delivery, Event, canonical, content_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge.contract.drift import Drift
    from bridge.contract.object_mapping import ObjectMapping
    from bridge.contract.schemas import Contract, Topic

TYPE_FIELDS = ("type", "event", "event_type")
"""The fields that may name a body's type: the first that is not null counts."""
_KEY_FIELDS = ("asset_id", "live_asset_id")
"""The fields that may hold the key of a body whose type is unknown."""
MAX_TYPE_CHARS = 256
"""Characters of a delivered type that a dead letter repeats: it must not be too large itself."""
MAX_DETAIL_CHARS = 1000
"""Characters of a dead letter's detail and pointer."""
BODY_PREFIX_BYTES = 512
"""Bytes of a body that a dead letter without its body repeats."""
MAX_RECEIPT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_NOT_IN_ATTRIBUTES = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters and noncharacters, which no CloudEvents attribute may hold."""


_log = structlog.stdlib.get_logger()


class _TooDeepError(Exception):
    """A JSON value has more levels than can be encoded: the parser allows 1024, the encoder 254."""

    detail = "the body has more levels than can be encoded, which are about 250"


class _Route(NamedTuple):
    """A topic, and the headers that are the same in each of its events."""

    topic: Topic
    headers: list[tuple[str, bytes]]


class Normalizer:
    """Builds the Kafka record of a delivery. Raises `ContractError` if `MAPPINGS` and the contract differ."""

    def __init__(self, contract: Contract, drift: Drift | None = None) -> None:
        """`drift` counts what the contract does not know."""
        self._drift = drift
        reserved = {contract.dead_letter.event_type, contract.unrecognized.event_type}
        if unfiled := MAPPINGS.keys() - contract.topics.keys():
            raise ContractError(f"{min(unfiled)}.json is missing: the type has a mapping, but no schema file")
        if unmapped := contract.topics.keys() - reserved - MAPPINGS.keys():
            path = contract.topics[min(unmapped)].path
            raise ContractError(f"{path}: the type {min(unmapped)} has no mapping in bridge/contract/mappings.py")
        self._typed = {name: (_route(contract.topics[name]), mapping) for name, mapping in MAPPINGS.items()}
        self._unrecognized = _route(contract.unrecognized)
        self._dead_letter = _route(contract.dead_letter)

    @property
    def dead_letter_topic(self) -> str:
        """The whole name of the dead-letter topic."""
        return self._dead_letter.topic.name

    def event(self, delivery: Delivery) -> Event:
        """Return the one event that `delivery` becomes."""
        try:
            return self._event(delivery)
        except orjson.JSONDecodeError as error:
            # JSON that is too deep for the parser is not the same as invalid JSON.
            if "depth" in error.msg or "recursion" in error.msg.lower():
                return self.dead_letter(delivery, "nesting_too_deep", _TooDeepError.detail)
            detail = f"the body is not JSON: error in line {error.lineno}, column {error.colno}"
            is_empty = not delivery.body.removeprefix(codecs.BOM_UTF8).strip()
            return self.dead_letter(delivery, "invalid_json", "the body is empty" if is_empty else detail)
        except _TooDeepError as error:
            return self.dead_letter(delivery, "nesting_too_deep", error.detail)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not block every event behind this one
            _log.exception("delivery_not_normalized", received_ms=delivery.received_ms)
            return self.dead_letter(delivery, "internal_error", f"{type(error).__name__} in the normalizer")

    def dead_letter(self, delivery: Delivery, reason: str, detail: str, pointer: str | None = None) -> Event:
        """Return the event that holds the raw body, for a delivery that cannot be published as a record of its type.

        `reason` is one of the words that `schemas/dead-letter.json` lists, `detail` explains it in a sentence,
        `pointer` names the place in the delivered body. The id and the key are those that the record would have
        had. Never raises.
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

    def _event(self, delivery: Delivery) -> Event:
        body = delivery.body
        document = parse(body)
        if type(document) is not dict:
            return self.dead_letter(delivery, "not_an_object", "the body is JSON, but not an object")
        content = _encode(document)
        extra = {} if is_lossless(body, document) else {"body_base64": b64encode(body).decode()}
        event_id = content_id(delivery.source, body if extra else content)
        type_field, event_type = _type_of(document)
        if event_type is None or event_type not in self._typed:
            about = {} if event_type is None else {"type": event_type}
            value = _encode(about | {"event": document} | extra)
            self._report_drift(event_type, None, {})
            return _build_event(self._unrecognized, delivery, event_id, value, _key(document, _KEY_FIELDS))

        route, mapping = self._typed[event_type]
        record, rest = mapping.read(document)
        record["type"] = event_type
        if type_field != "type":
            rest.pop(type_field, None)
        if rest:
            record["additional"] = rest
        if extra:
            record |= extra
        # Encoded first: a record that nests too deeply to be encoded is not given to the validator.
        value = _encode(record)
        key_name = route.topic.key or ""
        if violation := route.topic.first_violation(record):
            if violation.pointer != f"/{key_name}":  # a schema file that is stricter than the mapping
                detail = f"the record violates its schema at {violation.pointer}: {violation.detail}"
                return self.dead_letter(delivery, "schema_violation", detail)
            self._report_drift(event_type, mapping, {key_name: document.get(key_name)})
            detail = f"the key is missing, or not a string of 1 to {MAX_KEY_CHARS} characters or an integer of 64 bits"
            return self.dead_letter(delivery, "schema_violation", detail, violation.pointer)
        if rest and not mapping.is_open:
            self._report_drift(event_type, mapping, rest)
        return _build_event(route, delivery, event_id, value, record.get(key_name))

    def _report_drift(self, event_type: str | None, mapping: ObjectMapping | None, rest: dict[str, Any]) -> None:
        if self._drift is not None:
            with suppress(Exception):  # measuring must never cost an event
                if mapping is None:
                    self._drift.record_new_type(event_type)
                else:
                    self._drift.record_rest(event_type or "", mapping, rest)

    def _dead_letter_event(
        self, delivery: Delivery, reason: str, detail: str, pointer: str | None, body: dict[str, Any]
    ) -> Event:
        document, content = None, delivery.body
        with suppress(Exception):  # whatever is wrong with the body: the dead letter must still be built
            document = parse(delivery.body)
            encoded = _encode(document)
            content = encoded if is_lossless(delivery.body, document) else delivery.body
        _, event_type = _type_of(document) if isinstance(document, dict) else ("", None)
        typed = self._typed.get(event_type) if event_type else None
        fields = (typed[0].topic.key,) if typed and typed[0].topic.key else _KEY_FIELDS
        key = _key(document, fields) if isinstance(document, dict) else None
        record = {
            "reason": _encodable(reason),
            "detail": _encodable(detail[:MAX_DETAIL_CHARS]),
            "pointer": None if pointer is None else _encodable(pointer[:MAX_DETAIL_CHARS]),
            "source": _encodable(delivery.source),
            "received_at": _receipt_time(delivery.received_ms),
            "event_type": None if event_type is None else event_type[:MAX_TYPE_CHARS],
            "asset_id": key,
            **body,
        }
        value = _encode({name: value for name, value in record.items() if value is not None})
        return _build_event(self._dead_letter, delivery, content_id(delivery.source, content), value, key)


def _encode(document: Any) -> bytes:
    try:
        return canonical(document)
    except orjson.JSONEncodeError as error:  # it is a TypeError: it must not be caught around more than this
        raise _TooDeepError from error


def _type_of(document: dict[str, Any]) -> tuple[str, str | None]:
    """Return the field that names the type, and the type: None where it is not text."""
    for field in TYPE_FIELDS:
        value = document.get(field)
        if value is not None:
            return field, value if type(value) is str else None
    return "type", None


def _key(document: dict[str, Any], fields: Iterable[str]) -> str | None:
    """Return the first usable key of a body among `fields`."""
    return next((key for field in fields if (key := to_key(document.get(field)))), None)


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


@lru_cache(maxsize=1024)  # deliveries that arrive together share their milliseconds
def _time(received_ms: int) -> tuple[str, bytes]:
    return "ce_time", _receipt_time(received_ms).encode()


def _receipt_time(received_ms: int) -> str:
    """Return the time of receipt as RFC 3339; a time outside the years 1970 to 9999 becomes the nearest in them."""
    return rfc3339(min(max(received_ms, 0), MAX_RECEIPT_MS))


def _build_event(route: _Route, delivery: Delivery, event_id: str, value: bytes, key: str | None) -> Event:
    """Return the record in the binary mode of CloudEvents' Kafka protocol binding."""
    headers = [
        *route.headers,
        ("ce_id", event_id.encode()),
        _source(delivery.source),
        _time(delivery.received_ms),
    ]
    encoded_key = None
    if key is not None:
        encoded_key = key.encode()
        # The binding has no escape for what an attribute may not hold: then only the key has the id.
        if key.isalnum() or not _NOT_IN_ATTRIBUTES.search(key):
            headers.append(("ce_subject", encoded_key))
    if delivery.traceparent:
        headers.append(("traceparent", delivery.traceparent.encode(errors="replace")))
    topic = route.topic
    return Event(topic.name, encoded_key, value, headers, delivery.received_ms, topic.event_type, event_id)
