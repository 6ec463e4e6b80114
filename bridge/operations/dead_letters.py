"""Dead letters read back from Kafka, and the delivery that each of them preserves.

Pure. A dead letter holds the body, source and receipt time of its delivery, so the current normalizer gives the
restored delivery the id and time that it had originally.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from bridge.event import Delivery

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord


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
