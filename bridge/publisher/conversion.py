"""Makes the events that are sent: of deliveries, and of what Kafka has rejected.

An event that its topic rejects becomes a dead letter; a dead letter that is rejected is made again without its body;
where that is rejected too, there is nothing smaller, and its delivery is parked. No exception leaves this module: a
fault on one delivery must not stop those behind it.
"""

from __future__ import annotations

import orjson
import structlog

from bridge.contract.normalizer import Normalizer
from bridge.event import Delivery, Event
from bridge.publisher.outgoing import OutgoingEvent, Rejection
from bridge.queue.interface import Parked

_log = structlog.stdlib.get_logger()


class EventConverter:
    """Makes outgoing events with a normalizer."""

    def __init__(self, normalizer: Normalizer) -> None:
        self._normalizer = normalizer

    @property
    def dead_letter_topic(self) -> str:
        """The topic of dead letters."""
        return self._normalizer.dead_letter_topic

    def convert(self, delivery: Delivery, number: int) -> OutgoingEvent:
        """Return the event of a delivery, which has `number` in the order of the queue."""
        try:
            return OutgoingEvent(self._normalizer.event(delivery), delivery, number)
        except Exception as error:  # noqa: BLE001 - a fault on one delivery must not stop those behind it
            _log.exception("delivery_not_normalized", received_ms=delivery.received_ms)
            detail = f"{type(error).__name__} in the normalizer"
            event = self._normalizer.dead_letter_without_body(delivery, "internal_error", detail)
            return OutgoingEvent(event, delivery, number, last_resort=True)

    def convert_parked(self, topic: str, parked: Parked) -> OutgoingEvent:
        """Return the event of a delivery that was parked for `topic`; one parked as a dead letter remains one."""
        outgoing = self.convert(parked.delivery, parked.number)
        if topic == self.dead_letter_topic != outgoing.event.topic:
            detail = f"rejected by {outgoing.event.topic} before it was parked"
            event = self._normalizer.dead_letter(parked.delivery, "rejected_by_kafka", detail)
            return outgoing._replace(event=event)
        return outgoing

    def replace(self, rejection: Rejection) -> OutgoingEvent | None:
        """Return what is sent in place of a rejected event; None when nothing smaller is left."""
        outgoing, reason, detail = rejection
        if outgoing.event.topic != self.dead_letter_topic:
            event = self._normalizer.dead_letter(outgoing.delivery, reason, detail)
            return outgoing._replace(event=event)
        if outgoing.last_resort:
            return None
        first_reason, first_detail = _reason_of(outgoing.event, rejection)
        event = self._normalizer.dead_letter_without_body(
            outgoing.delivery, first_reason, f"{first_detail}; rejected with its body: {detail}"
        )
        # A compacted topic rejects records without a key.
        return outgoing._replace(event=event._replace(key=event.key or event.id.encode()), last_resort=True)


def _reason_of(event: Event, rejection: Rejection) -> tuple[str, str]:
    """Return the reason and the detail that a dead letter was made with."""
    try:
        record = orjson.loads(event.value)
        return str(record["reason"]), str(record["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return rejection.reason, rejection.detail
