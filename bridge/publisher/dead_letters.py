"""Replaces events that Kafka has rejected by dead letters.

An event that its topic rejects becomes a dead letter. A dead letter that is rejected gets a key if it has none, which a
compacted topic requires. It is sent without its body only where Kafka rejects its size, or rejects it with a key too.
Where even that is rejected there is nothing smaller, and its delivery is parked for the dead-letter topic.
"""

from __future__ import annotations

import orjson
import structlog

from bridge.contract.normalizer import Normalizer
from bridge.event import Event
from bridge.publisher.failed_batches import Rejection
from bridge.publisher.sending import OutgoingEvent
from bridge.queue.interface import Parked

_log = structlog.stdlib.get_logger()


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
        if reason != "record_too_large" and outgoing.event.key is None:
            return outgoing._replace(event=_with_key(outgoing.event))
        first_reason, first_detail = _reason_of(outgoing.event, rejection)
        event = self._normalizer.dead_letter_without_body(
            outgoing.delivery, first_reason, f"{first_detail}; rejected with its body: {detail}"
        )
        _log.error(
            "dead_letter_without_body",
            topic=self.topic,
            id=event.id,
            bytes=len(outgoing.delivery.body),
            detail=detail,
            fix="raise the dead-letter topic's max.message.bytes: gumlet-bridge topics check",
        )
        return outgoing._replace(event=_with_key(event), last_resort=True)

    def convert_parked(self, parked: Parked) -> OutgoingEvent:
        """Return the event of a parked delivery; one that was parked as a dead letter remains one."""
        event = self._normalizer.event(parked.delivery)
        if parked.topic == self.topic != event.topic:
            detail = f"rejected by {event.topic} before it was parked"
            event = self._normalizer.dead_letter(parked.delivery, "rejected_by_kafka", detail)
        return OutgoingEvent(event, parked.delivery, parked.number)


def _with_key(event: Event) -> Event:
    """Return the event with a key, by default its id."""
    return event._replace(key=event.key or event.id.encode())


def _reason_of(event: Event, rejection: Rejection) -> tuple[str, str]:
    """Return the reason and the detail that a dead letter was made with."""
    try:
        record = orjson.loads(event.value)
        return str(record["reason"]), str(record["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return rejection.reason, rejection.detail
