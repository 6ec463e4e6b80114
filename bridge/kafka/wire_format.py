"""The wire formats: how a record names its schema in the registry. Pure.

* plain: the record does not name its schema; the value is the JSON.
* confluent: a zero byte and the schema's id (4 bytes, big-endian) precede the JSON. JSON Schema has no message indexes.
* header: the header `__value_schema_id` holds the byte 1 and the 16 bytes of the schema's GUID; the value is the JSON.

Invariant: JSON never starts with a zero byte, so the format can be detected from the record alone.

Source: Confluent's "Formats, Serializers, and Deserializers" (wire format) and its clients' `SchemaId`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal
from uuid import UUID

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

WireFormat = Literal["plain", "confluent", "header"]

HEADER = "__value_schema_id"
_MAGIC_ID = b"\x00"
_MAGIC_GUID = b"\x01"
PREFIX_BYTES = 5


def encode_id_prefix(schema_id: int) -> bytes:
    """Return the bytes before the JSON in the format `confluent`. Raises OverflowError for an invalid id."""
    return _MAGIC_ID + schema_id.to_bytes(4, "big")


def encode_guid_header(guid: str) -> tuple[str, bytes]:
    """Return the header of the format `header`. Raises ValueError for an invalid GUID."""
    return HEADER, _MAGIC_GUID + UUID(guid).bytes


def detect_format(record: ConsumerRecord) -> WireFormat:
    """Return the format of a record."""
    if record.value and record.value.startswith(_MAGIC_ID):
        return "confluent"
    return "header" if any(name == HEADER for name, _ in record.headers) else "plain"


def strip_schema_id(record: ConsumerRecord) -> ConsumerRecord:
    """Return a record whose value is the JSON alone."""
    if record.value and record.value.startswith(_MAGIC_ID):
        return dataclasses.replace(record, value=record.value[PREFIX_BYTES:])
    return record
