"""Dead letters, read back: what each one says, and the delivery that each one was.

Pure. A dead letter holds the body and the receipt of its delivery, so the delivery made from it is the one that the
journal had: today's normalizer gives it the id and the time that it would have had then.
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
    """One record of the dead-letter topic. `about` is its value without the body; `place` is `partition/offset`."""

    place: str
    id: str
    about: dict[str, Any]
    delivery: Delivery

    @classmethod
    def of(cls, record: ConsumerRecord) -> DeadLetter | None:
        """Read a record; None when it is none of the bridge's."""
        try:
            about = orjson.loads(record.value)
            body = b64decode(about.pop("body_base64"), validate=True)
            delivery = Delivery(record.timestamp, about["source"], body)
            event_id = dict(record.headers)["ce_id"].decode()
        except (ValueError, KeyError, TypeError, AttributeError, Base64Error):
            return None
        return cls(f"{record.partition}/{record.offset}", event_id, about, delivery)

    def line(self) -> dict[str, Any]:
        """Return what `list` prints: everything but the body."""
        return {"place": self.place, "id": self.id} | self.about

    def whole(self) -> dict[str, Any]:
        """Return what `show` and `export` print: the body too."""
        return self.line() | readable(self.delivery.body)


def readable(body: bytes) -> dict[str, Any]:
    """Return a body as people and programs read it, nothing lost: `body` is its JSON or text, else `body_base64`."""
    try:
        return {"body": orjson.loads(body)}
    except orjson.JSONDecodeError:
        pass
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}
