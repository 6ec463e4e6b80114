"""The two values of the daemon: the delivery (one webhook request's body) and the event (one Kafka record).

The ingress makes a `Delivery`, which the queue keeps. The publisher sends an `Event`: one encoded record in the binary
mode of CloudEvents' Kafka protocol binding. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import orjson

ID_BYTES = 16
"""Length of an event's id before it is encoded in hexadecimal: collisions are not to be expected with 128 bits."""


class Delivery(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One webhook request as it was received.

    `received_ms` is the time of receipt in milliseconds since the epoch, `source` the name in the URL
    (`/webhooks/gumlet/{source}`), `body` the bytes that were sent, after content decoding, `traceparent` the span of
    its request in W3C's form (empty: not traced).
    Encoded as an array: a later version may append fields that have defaults, and still read this one.
    """

    received_ms: int
    source: str
    body: bytes
    traceparent: str = ""


class Event(NamedTuple):
    """One Kafka record, ready to be sent.

    `topic` is the topic's whole name, `key` the asset id (None: any partition), `value` the JSON of the
    record, `headers` the CloudEvents attributes, `received_ms` becomes the record's time. `event_type` is the
    contract's name for the topic, `id` the `ce_id`.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    received_ms: int
    event_type: str
    id: str


def canonical(document: Any) -> bytes:
    """Encode a JSON value in the one form that its id is made of: sorted keys, no spaces, UTF-8.

    Raises `orjson.JSONEncodeError` for what has no such form (nested deeper than 254 levels).
    """
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def content_id(source: str, content: bytes) -> str:
    """Return the id of an event from its content: the same on every replica, after every restart.

    `content` is `canonical(document)`, or the body itself where the body is not JSON.
    """
    digest = _source_digest(source).copy()
    digest.update(content)
    encoded: str = digest.hexdigest()
    return encoded[: 2 * ID_BYTES]


@lru_cache(maxsize=256)
def _source_digest(source: str) -> Any:
    return hashlib.sha256(source.encode(errors="replace") + b"\n")
