"""Replaces events that Kafka has rejected by dead letters.

An event that its topic rejects becomes a dead letter; a dead letter that is rejected is made again without its body;
where that is rejected too there is nothing smaller, and its delivery is parked for the dead-letter topic.
"""

from __future__ import annotations

import orjson

from bridge.contract.normalizer import Normalizer
from bridge.event import Event
from bridge.publisher.failed_batches import Rejection
from bridge.publisher.sending import OutgoingEvent
from bridge.queue.interface import Parked


class DeadLetters:
    """Makes dead letters with a normalizer."""

    def __init__(self, normalizer: Normalizer) -> None:
        self._normalizer = normalizer
        self.topic = normalizer.dead_letter_topic

    def replace(self, rejection: Rejection) -> OutgoingEvent | None:
        """Return what is sent in place of a rejected event; None when nothing smaller is left."""
        outgoing, reason, detail = rejection
        if outgoing.event.topic != self.topic:
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

    def convert_parked(self, parked: Parked) -> OutgoingEvent:
        """Return the event of a parked delivery; one that was parked as a dead letter remains one."""
        event = self._normalizer.event(parked.delivery)
        if parked.topic == self.topic != event.topic:
            detail = f"rejected by {event.topic} before it was parked"
            event = self._normalizer.dead_letter(parked.delivery, "rejected_by_kafka", detail)
        return OutgoingEvent(event, parked.delivery, parked.number)


def _reason_of(event: Event, rejection: Rejection) -> tuple[str, str]:
    """Return the reason and the detail that a dead letter was made with."""
    try:
        record = orjson.loads(event.value)
        return str(record["reason"]), str(record["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return rejection.reason, rejection.detail
