"""`gumlet-bridge assets`: the events of one asset on Kafka."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import AsJson, ConfigFile, echo, is_piped, make_app, parse_time, progress, show_rows, write_line
from bridge.config import settings as config
from bridge.contract.converters import rfc3339
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.asset_timeline import VIDEO, build_timeline
from bridge.operations.record_view import record_to_dict
from bridge.operations.topic_reader import open_reader

if TYPE_CHECKING:
    from bridge.config.settings import Settings

app = make_app("The events of one asset on Kafka.")


@app.callback()
def _group() -> None:
    """Read the events of one asset from Kafka."""


@app.command()
def timeline(
    asset_id: Annotated[str, typer.Argument(metavar="ID", help="Asset id, as in the event.")],
    *,
    since: Annotated[
        str | None,
        typer.Option(
            help="Read from this time on: 7d, 2026-01-31. Later is faster.", show_default="the topics' retention"
        ),
    ] = None,
    all_partitions: Annotated[
        bool,
        typer.Option(
            "--all-partitions", help="Read every partition: needed when partitions were added since the asset's events."
        ),
    ] = False,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show an asset's events in order of receipt, with duplicates, disorder and gaps marked.

    Reads, of each topic of the contract, the partition that holds the asset's key. Changes nothing. Exit code 1: an
    event is missing, or Kafka has no event of the asset.

    Examples:
    - `gumlet-bridge assets timeline 5fd088e0a47da8246f1fb756 --since 7d`

    - `gumlet-bridge assets timeline 5fd088e0a47da8246f1fb756 --json | jq -r 'select(.note == "missing") | .type'`
    """
    settings = config.load(config_file)
    contract = Contract.load(settings.topics.prefix)
    since_ms = parse_time(since) if since else int(time.time() * 1000) - _longest_retention_ms(contract)
    lines = asyncio.run(_find(settings, contract, asset_id, since_ms, all_partitions=all_partitions))
    if not lines:
        raise BridgeError(
            f"Kafka has no event of asset {asset_id}. Fix: an earlier --since, --all-partitions if partitions were "
            "added, or `gumlet-bridge reconcile` if it was never delivered. Events older than their topic's retention "
            "are deleted."
        )
    events, missing = build_timeline(lines)
    if as_json or is_piped():
        rows = events
    else:
        rows = [
            event | {"type": event["type"].removeprefix(VIDEO), "offset": f"{event['partition']}/{event['offset']}"}
            for event in events
        ]
    show_rows(rows, ("received_at", "type", "offset", "note"), as_json=as_json, title=asset_id)
    expired = {name for name in missing if _may_have_expired(lines, _retention_ms(contract, name))}
    for event_type in missing:
        note = "expired" if event_type in expired else "missing"
        if as_json or is_piped():
            write_line({"asset_id": asset_id, "type": event_type, "note": note})
        elif note == "expired":
            echo(f"{event_type}: not on Kafka; the asset is older than its topic's retention.", style="dim")
        else:
            echo(f"{event_type}: missing. Publish final states again with `gumlet-bridge reconcile`.", style="yellow")
    if set(missing) - expired:
        raise typer.Exit(1)


def _retention_ms(contract: Contract, event_type: str) -> int:
    return int(contract.topics[event_type].config.get("retention.ms", "-1"))


def _longest_retention_ms(contract: Contract) -> int:
    """Return the longest retention of the contract's topics; all time when a topic keeps its records for good."""
    retentions = [_retention_ms(contract, event_type) for event_type in contract.topics]
    return int(time.time() * 1000) if min(retentions) < 0 else max(retentions)


def _may_have_expired(lines: list[dict[str, Any]], retention_ms: int) -> bool:
    """Return whether the asset is older than a retention, so that its first events may be deleted."""
    first = min(line["received_at"] for line in lines)
    for line in lines:
        created = line["event"].get("created_at") if isinstance(line["event"], dict) else None
        first = min(first, created) if isinstance(created, str) else first
    return retention_ms >= 0 and first < rfc3339(int(time.time() * 1000) - retention_ms)


async def _find(
    settings: Settings, contract: Contract, asset_id: str, since_ms: int, *, all_partitions: bool
) -> list[dict[str, Any]]:
    topics = {topic.name for topic in contract.topics.values()}
    key = asset_id.encode()
    found = []
    async with open_reader(settings.kafka, topics, None if all_partitions else key) as reader:
        with progress("records read", await reader.count()) as advance:
            async for record in reader.records(since_ms):
                advance(1)
                if record.key == key:
                    found.append(record_to_dict(record))
    return found
