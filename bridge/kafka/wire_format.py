"""The wire formats: how a record says which schema of the registry it follows. Pure.

* plain: not at all, the value is the JSON.
* confluent: before the JSON a zero byte and the schema's id, 4 bytes, most significant first. JSON Schema has no
  message indexes.
* header: in the header `__value_schema_id`, a byte of one and the 16 bytes of the schema's GUID; the value is the JSON.

JSON never begins with a zero byte, so a reader needs not be told which it is.

Source: Confluent's "Formats, Serializers, and Deserializers" (wire format) and its clients' `SchemaId`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

HEADER = "__value_schema_id"
_MAGIC_ID = b"\x00"
_MAGIC_GUID = b"\x01"
PREFIX_BYTES = 5


def encode_id_prefix(schema_id: int) -> bytes:
    """Return what stands before the JSON in the format `confluent`."""
    return _MAGIC_ID + schema_id.to_bytes(4, "big")


def encode_guid_header(guid: str) -> tuple[str, bytes]:
    """Return the header of the format `header`. Raises ValueError for what is no GUID."""
    return HEADER, _MAGIC_GUID + UUID(guid).bytes


def unframed(record: ConsumerRecord) -> ConsumerRecord:
    """Return a record with its JSON alone as the value."""
    if record.value and record.value.startswith(_MAGIC_ID):
        return dataclasses.replace(record, value=record.value[PREFIX_BYTES:])
    return record
