"""A batch of records for one partition: what Kafka said of it, and where its records lie."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bridge.telemetry.recent_activity import MAX_ENTRIES, RecordOffset


@dataclass(slots=True)
class Batch:
    """Records that are sent at once: aiokafka's builder of them, and what tells when Kafka has them."""

    topic: str
    partition: int
    builder: Any
    future: asyncio.Future[Any] | None = None

    def outcome(self) -> Literal[True] | BaseException | None:
        """Return True when Kafka confirmed, its error when it refused, None when it said nothing."""
        if self.future is None or not self.future.done() or self.future.cancelled():
            return None
        return self.future.exception() or True


def latest_offsets(placed: Sequence[Batch | None]) -> list[RecordOffset]:
    """Return where the last events that were confirmed lie: only those are shown to anybody."""
    places: list[RecordOffset] = []
    left: dict[int, int] = {}
    for batch in reversed(placed):
        if batch is None or batch.future is None or batch.outcome() is not True:
            continue
        ahead = left[id(batch)] = left.get(id(batch), batch.builder.record_count()) - 1
        base = batch.future.result().offset
        places.append(RecordOffset(batch.partition, base + ahead if base >= 0 else None))
        if len(places) == MAX_ENTRIES:
            break
    return places[::-1]
