"""The values between publisher and producer: an event to be sent, and the report of what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bridge.event import Delivery, Event
from bridge.telemetry.recent_activity import RecordOffset


class OutgoingEvent(NamedTuple):
    """An event to be sent, the delivery that it was made from, and the delivery's number, which gives the order.

    `last_resort`: a dead letter without its body, which has no smaller form.
    """

    event: Event
    delivery: Delivery
    number: int
    last_resort: bool = False


class Rejection(NamedTuple):
    """An event that Kafka can never accept: `reason` is a dead letter's, `detail` the error's text."""

    outgoing: OutgoingEvent
    reason: str
    detail: str


class BlockedTopic(NamedTuple):
    """The events of a topic that accepts none for now, in order, and why."""

    events: list[OutgoingEvent]
    detail: str


@dataclass(slots=True)
class DeliveryReport:
    """What became of each event: every one is in exactly one of these.

    `sent`: confirmed by every in-sync replica. `retry`: not confirmed, to be sent again. `blocked_by_topic`: their
    topic is missing, without a leader, forbidden … `rejected`: never acceptable. All but `sent` are in order.
    `offsets` are the positions of the last events of `sent`.
    """

    sent: list[OutgoingEvent] = field(default_factory=list)
    offsets: list[RecordOffset] = field(default_factory=list)
    retry: list[OutgoingEvent] = field(default_factory=list)
    blocked_by_topic: dict[str, BlockedTopic] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)

    def block(self, outgoing: OutgoingEvent, detail: str) -> None:
        """Add an event whose topic accepts none for now."""
        self.blocked_by_topic.setdefault(outgoing.event.topic, BlockedTopic([], detail)).events.append(outgoing)


class ConnectionStateCallback(Protocol):
    """Receives changes of the connection to Kafka."""

    def __call__(self, *, connected: bool, detail: str = "") -> None:
        """Record whether Kafka responds."""


class RecordEncoder(Protocol):
    """Puts the wire format's fields on events before they are sent."""

    @property
    def available(self) -> bool:
        """Whether `prepare` has succeeded, or has not failed yet."""

    async def prepare(self) -> None:
        """Wait until events can be encoded."""

    async def unavailable_reason(self, topic: str) -> str | None:
        """Return why the events of a topic cannot be encoded now, None if they can."""

    def encode(self, event: Event) -> Event:
        """Return the event in the wire format."""
