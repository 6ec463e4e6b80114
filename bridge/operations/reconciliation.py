"""Finding the events that never came, and making them from what Gumlet's API still knows.

The laws:

1. Only a final state is made up for: `ready`, `errored`, `deleted`, and `repackaged` (the latest). Of an intermediate
   state nothing is left to publish; it is reported as unknowable, as is a final state that the asset has left.
2. An event that Kafka has, as itself or as a dead letter, is not made again; nor one that Gumlet still tries to
   deliver, nor one that was acknowledged: that one waits in a journal.
3. The id depends on the source, the type, the asset (and for `repackaged` the line of the history) alone, so that a
   second run finds that Kafka has it. So does one that goes on after an interruption (`reconcile_state`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from bridge.contract.schemas import DEAD_LETTER
from bridge.event import Delivery, Event, canonical, content_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiokafka import ConsumerRecord

    from bridge.contract.normalizer import Normalizer
    from bridge.contract.schemas import Contract
    from bridge.operations.gumlet_api import DeliveryAttempt, GumletApi, Webhook

ORIGIN = "reconciliation"
"""What the header `ce_origin` says of an event that was made here."""
VIDEO = "video.status."
READY, ERRORED, DELETED, REPACKAGED = (VIDEO + state for state in ("ready", "errored", "deleted", "repackaged"))
STATUS = {READY: "ready", REPACKAGED: "ready", ERRORED: "errored", DELETED: "deleted"}
"""The final types, each with the asset's status in which it is still true; in the order in which they are sent."""
BY_STATUS = {"ready": READY, "errored": ERRORED}
"""What must have come for an asset that is listed with a status."""


class PublishedIndex:
    """What Kafka has: which types of which asset, and the ids of what was reconciled."""

    def __init__(self, contract: Contract) -> None:
        self._types = {topic.name: topic.event_type for topic in contract.topics.values()}
        self._came: set[tuple[str, str]] = set()
        self._ids: set[str] = set()

    def add(self, record: ConsumerRecord) -> None:
        """Take note of a record."""
        event_type = self._types[record.topic]
        headers = dict(record.headers)
        if event_type == DEAD_LETTER:
            event_type = str(orjson.loads(record.value).get("event_type"))
        if record.key is not None:
            self._came.add((record.key.decode(errors="replace"), event_type))
        if "ce_origin" in headers:
            self._ids.add(headers["ce_id"].decode(errors="replace"))

    def has(self, missing: Missing) -> bool:
        """Tell whether Kafka has an event; of a repackaging only its id tells, because there can be many."""
        came = missing.event_type != REPACKAGED and (missing.asset_id, missing.event_type) in self._came
        return came or missing.event_id in self._ids


@dataclass(frozen=True, slots=True)
class Missing:
    """An event that never came. `event_id` is the id that it will have."""

    asset_id: str
    event_type: str
    source: str
    because: str
    discriminator: str = ""

    @property
    def event_id(self) -> str:
        """The id: the same at every run."""
        return content_id(self.source, canonical([ORIGIN, self.event_type, self.asset_id, self.discriminator]))

    def line(self, outcome: str) -> dict[str, Any]:
        """Return a row of the report."""
        return {
            "asset_id": self.asset_id,
            "type": self.event_type,
            "because": self.because,
            "outcome": outcome,
            "id": self.event_id,
        }


def find_in_history(
    history: Iterable[DeliveryAttempt], source: str, kafka: PublishedIndex, since_ms: int
) -> tuple[list[Missing], list[Missing]]:
    """Return what a webhook's history says never came, oldest first: what can be made, and what is unknowable."""
    unknowable: list[Missing] = []
    latest: dict[tuple[str, str], Missing] = {}
    for entry in sorted(history, key=lambda each: each.created_ms):
        if entry.event == REPACKAGED and entry.status != "failed":
            latest.pop((entry.asset_id, entry.event), None)  # a newer one says what the lost one said
        if entry.status != "failed" or entry.created_ms < since_ms or not entry.event.startswith(VIDEO):
            continue
        repackaged = entry.event == REPACKAGED
        missing = Missing(entry.asset_id, entry.event, source, "delivery failed", entry.id if repackaged else "")
        if kafka.has(missing):
            latest.pop((entry.asset_id, entry.event), None)
        elif entry.event in STATUS:
            latest[entry.asset_id, entry.event] = missing
        else:
            unknowable.append(missing)
    return list(latest.values()), unknowable


async def find_in_asset_lists(api: GumletApi, webhook: Webhook, history: Iterable[DeliveryAttempt], since_ms: int, source: str,  # noqa: PLR0913, PLR0917
                     kafka: PublishedIndex) -> list[Missing]:  # fmt: skip
    """Return the final states that the asset lists show, of which neither Kafka nor the history knows."""
    known = {(entry.asset_id, entry.event) for entry in history}
    found = []
    for workspace in webhook.sources:
        async for asset in api.assets(workspace, since_ms):
            event_type = BY_STATUS.get(str(asset.get("status")))
            asset_id = str(asset.get("asset_id", ""))
            created = asset.get("created_at")
            if event_type is None or not asset_id or (asset_id, event_type) in known:
                continue
            if isinstance(created, int) and created < since_ms:
                continue
            missing = Missing(asset_id, event_type, source, "never delivered")
            if not kafka.has(missing):
                found.append(missing)
    return found


async def made(
    api: GumletApi, missing: Missing, normalizer: Normalizer, after_ms: int
) -> tuple[Event, Delivery] | None:
    """Return the event as it can be made from what the asset is now; None when it has left that state.

    Its time is now, and later than `after_ms`: a consumer that sorts by it sees the final state last.
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


def in_order(missing: Iterable[Missing]) -> list[Missing]:
    """Return events in an order in which each asset's last one is its final state."""
    rank = {event_type: place for place, event_type in enumerate((READY, REPACKAGED, ERRORED, DELETED))}
    return sorted(missing, key=lambda each: rank[each.event_type])
