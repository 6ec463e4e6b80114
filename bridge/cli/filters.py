"""The filter options that commands over deliveries share (`dead-letter`, `journal`), and the filter they make."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_OPTIONS: dict[str, Any] = {
    "since": typer.Option(help="Received at this time or later: 2h, 7d, 2026-01-31, 2026-01-31T08:00:00Z."),
    "until": typer.Option(help="Received before this time."),
    "event_type": typer.Option("--type", help="Event type as delivered, such as video.status.ready."),
    "asset": typer.Option("--asset", help="Asset id."),
    "reason": typer.Option(help="Reason of a dead letter, such as schema_violation."),
}


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Matches the deliveries for which every value that is set holds. Times are milliseconds since 1970."""

    since: int | None = None
    until: int | None = None
    event_type: str | None = None
    asset: str | None = None
    reason: str | None = None
    event_id: str | None = None

    def matches(self, received_ms: int, metadata: Mapping[str, Any], ids: Collection[str]) -> bool:
        """Return whether a delivery matches; `metadata` has its type, asset and reason, `ids` every id of it."""
        fields = (("event_type", self.event_type), ("asset_id", self.asset), ("reason", self.reason))
        return (
            (self.since is None or received_ms >= self.since)
            and (self.until is None or received_ms < self.until)
            and (self.event_id is None or self.event_id in ids)
            and all(wanted is None or wanted == metadata.get(name) for name, wanted in fields)
        )


def with_filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filter options in place of its parameter `wanted`, which receives the DeliveryFilter."""
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])
        for name, option in _OPTIONS.items()
    ]
    others = [parameter for name, parameter in signature.parameters.items() if name != "wanted"]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in _OPTIONS}
        for name in ("since", "until"):
            values[name] = parse_time(values[name]) if values[name] else None
        command(wanted=DeliveryFilter(**values), **arguments)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*others, *options]]
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run
