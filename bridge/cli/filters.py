"""Choosing deliveries, of the dead-letter topic as of a journal: the options, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import moment

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Since = Annotated[str | None, typer.Option(help="Received then or later: 2h, 7d, 2026-01-31, 2026-01-31T08:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Received before then.")]
EventType = Annotated[str | None, typer.Option("--type", help="The type as delivered, such as video.status.ready.")]
AssetId = Annotated[str | None, typer.Option("--asset", help="The asset's id.")]
Reason = Annotated[str | None, typer.Option(help="The reason of a dead letter, such as schema_violation.")]


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Those deliveries for which everything that is set holds. Times in milliseconds since 1970."""

    since: int | None = None
    until: int | None = None
    event_type: str | None = None
    asset: str | None = None
    reason: str | None = None
    event_id: str | None = None

    def takes(self, received_ms: int, about: Mapping[str, Any], names: Collection[str]) -> bool:
        """Tell whether a delivery is meant, of which `about` says type, asset and reason; any of `names` names it."""
        said = (("event_type", self.event_type), ("asset_id", self.asset), ("reason", self.reason))
        return (
            (self.since is None or received_ms >= self.since)
            and (self.until is None or received_ms < self.until)
            and (self.event_id is None or self.event_id in names)
            and all(wanted is None or wanted == about.get(name) for name, wanted in said)
        )


def chosen(  # noqa: PLR0913, PLR0917 - one parameter for each option
    since: str | None = None,
    until: str | None = None,
    event_type: str | None = None,
    asset: str | None = None,
    reason: str | None = None,
    event_id: str | None = None,
) -> DeliveryFilter:
    """Read the options. Raises typer.BadParameter for a time that is none."""
    return DeliveryFilter(
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        event_type=event_type,
        asset=asset,
        reason=reason,
        event_id=event_id,
    )
