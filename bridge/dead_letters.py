"""Dead letters, read back: what each one says, which ones are meant, and the delivery that each one was.

Pure. A dead letter holds the body and the receipt of its delivery, so the delivery made from it is the one that the
journal had: today's normalizer gives it the id and the time that it would have had then.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from bridge.event import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

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
            known_as = dict(record.headers)["ce_id"].decode()
        except (ValueError, KeyError, TypeError, AttributeError, Base64Error):
            return None
        return cls(f"{record.partition}/{record.offset}", known_as, about, delivery)

    def line(self) -> dict[str, Any]:
        """Return what `list` prints: everything but the body."""
        return {"place": self.place, "id": self.id} | self.about

    def whole(self) -> dict[str, Any]:
        """Return what `show` and `export` print: the body too, as JSON where it is JSON, else as text."""
        try:
            body = orjson.loads(self.delivery.body)
        except orjson.JSONDecodeError:
            body = self.delivery.body.decode(errors="replace")
        return self.line() | {"body": body}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which dead letters are meant: those for which everything that is set holds. Times in milliseconds."""

    since: int | None = None
    until: int | None = None
    event_type: str | None = None
    asset: str | None = None
    reason: str | None = None
    known_as: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether `letter` is meant."""
        received = letter.delivery.received_ms
        said: list[tuple[str | None, Callable[[], Any]]] = [
            (self.event_type, lambda: letter.about.get("event_type")),
            (self.asset, lambda: letter.about.get("asset_id")),
            (self.reason, lambda: letter.about.get("reason")),
        ]
        return (
            (self.since is None or received >= self.since)
            and (self.until is None or received < self.until)
            and (self.known_as is None or self.known_as in (letter.id, letter.place))
            and all(wanted is None or wanted == found() for wanted, found in said)
        )
