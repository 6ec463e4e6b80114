"""Finds the events that Gumlet failed to deliver, and builds them from the current state of Gumlet's API.

Invariants:

1. Only final states are re-created: `ready`, `errored`, `deleted`, and the latest `repackaged`. An intermediate state,
   or a final state that the asset has left, is reported as unrecoverable.
2. An event that Kafka has, as itself or as a dead letter, is not built again; nor is one that Gumlet still tries to
   deliver or that was acknowledged: such an event is in a journal.
3. The id depends only on the source, the type, the asset and, for `repackaged`, the history entry. A second run, after
   an interruption too, therefore finds what the first one published.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from bridge.contract.schemas import DEAD_LETTER
from bridge.event import Delivery, Event, canonical, content_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka import ConsumerRecord

    from bridge.contract.normalizer import Normalizer
    from bridge.contract.schemas import Contract
    from bridge.operations.gumlet_api import DeliveryAttempt, GumletApi, Webhook

ORIGIN = "reconciliation"
"""Value of the header `ce_origin` of events built here."""
VIDEO = "video.status."
READY, ERRORED, DELETED, REPACKAGED = (VIDEO + state for state in ("ready", "errored", "deleted", "repackaged"))
STATUS = {READY: "ready", REPACKAGED: "ready", ERRORED: "errored", DELETED: "deleted"}
"""The final types in publishing order, each with the asset status for which it still holds."""
EVENT_TYPE_OF_STATUS = {"ready": READY, "errored": ERRORED}
"""The event that must exist for an asset listed with a status."""


class PublishedIndex:
    """The events that Kafka has: the types of each asset, and the ids of events published by a reconciliation."""

    def __init__(self, contract: Contract) -> None:
        self._types = {topic.name: topic.event_type for topic in contract.topics.values()}
        self._published: set[tuple[str, str]] = set()
        self._ids: set[str] = set()

    def add(self, record: ConsumerRecord) -> None:
        """Add a record of Kafka."""
        event_type = self._types[record.topic]
        headers = dict(record.headers)
        if event_type == DEAD_LETTER:
            event_type = str(orjson.loads(record.value).get("event_type"))
        if record.key is not None:
            self._published.add((record.key.decode(errors="replace"), event_type))
        if "ce_origin" in headers:
            self._ids.add(headers["ce_id"].decode(errors="replace"))

    def __contains__(self, missing: MissingEvent) -> bool:
        # An asset can be repackaged many times, so only the id identifies one of these events.
        by_type = missing.event_type != REPACKAGED and (missing.asset_id, missing.event_type) in self._published
        return by_type or missing.event_id in self._ids


@dataclass(frozen=True, slots=True)
class MissingEvent:
    """An event that was not delivered. `discriminator` distinguishes events of one asset and type."""

    asset_id: str
    event_type: str
    source: str
    reason: str
    discriminator: str = ""

    @property
    def event_id(self) -> str:
        """The id of the event, the same in every run."""
        return content_id(self.source, canonical([ORIGIN, self.event_type, self.asset_id, self.discriminator]))

    def to_dict(self, outcome: str) -> dict[str, Any]:
        """Return a row of the report."""
        return {
            "asset_id": self.asset_id,
            "type": self.event_type,
            "reason": self.reason,
            "outcome": outcome,
            "id": self.event_id,
        }


def find_in_history(
    history: Iterable[DeliveryAttempt], source: str, published: PublishedIndex, since_ms: int
) -> tuple[list[MissingEvent], list[MissingEvent]]:
    """Return the failed deliveries of a webhook's history: those that can be built, oldest first, and the others."""
    unrecoverable: list[MissingEvent] = []
    latest: dict[tuple[str, str], MissingEvent] = {}
    for entry in sorted(history, key=lambda attempt: attempt.created_ms):
        if entry.event == REPACKAGED and entry.status != "failed":
            latest.pop((entry.asset_id, entry.event), None)  # superseded by a newer delivery
        if entry.status != "failed" or entry.created_ms < since_ms or not entry.event.startswith(VIDEO):
            continue
        discriminator = entry.id if entry.event == REPACKAGED else ""
        missing = MissingEvent(entry.asset_id, entry.event, source, "delivery failed", discriminator)
        if missing in published:
            latest.pop((entry.asset_id, entry.event), None)
        elif entry.event in STATUS:
            latest[entry.asset_id, entry.event] = missing
        else:
            unrecoverable.append(missing)
    return list(latest.values()), unrecoverable


async def find_in_asset_lists(  # noqa: PLR0913 - the webhook, its history, and what Kafka has
    api: GumletApi,
    webhook: Webhook,
    history: Sequence[DeliveryAttempt],
    *,
    source: str,
    published: PublishedIndex,
    since_ms: int,
) -> list[MissingEvent]:
    """Return the final states in the asset lists that neither Kafka nor the webhook's history has."""
    known = {(entry.asset_id, entry.event) for entry in history}
    found = []
    for workspace in webhook.sources:
        async for asset in api.assets(workspace, since_ms):
            event_type = EVENT_TYPE_OF_STATUS.get(str(asset.get("status")))
            asset_id = str(asset.get("asset_id", ""))
            created = asset.get("created_at")
            if event_type is None or not asset_id or (asset_id, event_type) in known:
                continue
            if isinstance(created, int) and created < since_ms:
                continue
            missing = MissingEvent(asset_id, event_type, source, "never delivered")
            if missing not in published:
                found.append(missing)
    return found


async def build_event(
    api: GumletApi, missing: MissingEvent, normalizer: Normalizer, after_ms: int
) -> tuple[Event, Delivery] | None:
    """Return the event built from the asset's current state; None when the asset has left that state.

    Its time is the current time and later than `after_ms`, so that the final state is last in order of time.
    """
    asset = await api.asset(missing.asset_id)
    if missing.event_type == DELETED and asset is None:
        asset = {"asset_id": missing.asset_id, "status": STATUS[DELETED]}
    if asset is None or asset.get("status") != STATUS[missing.event_type]:
        return None
    body = {"type": missing.event_type} | {name: value for name, value in asset.items() if name != "type"}
    delivery = Delivery(max(after_ms + 1, int(time.time() * 1000)), missing.source, orjson.dumps(body))
    event = normalizer.event(delivery)
    headers = [(name, value) for name, value in event.headers if name != "ce_id"]
    headers += [("ce_id", missing.event_id.encode()), ("ce_origin", ORIGIN.encode())]
    return event._replace(id=missing.event_id, headers=headers), delivery


def sort_by_finality(missing: Iterable[MissingEvent]) -> list[MissingEvent]:
    """Return events in an order in which each asset's last event is its final state."""
    rank = {event_type: position for position, event_type in enumerate(STATUS)}
    return sorted(missing, key=lambda event: rank[event.event_type])
