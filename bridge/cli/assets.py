"""`gumlet-bridge assets`: what Kafka knows about one asset."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import AsJson, ConfigFile, moment, piped, progress, show_rows, write_line
from bridge.cli.tail import described
from bridge.config import settings as config
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.asset_timeline import tell
from bridge.operations.topic_reader import open_reader

if TYPE_CHECKING:
    from bridge.config.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What Kafka knows about an asset.")


@app.callback()
def _group() -> None:
    """Find out what Kafka knows about an asset."""


@app.command()
def show(
    asset_id: Annotated[str, typer.Argument(metavar="ID", help="The asset's id, 24 hexadecimal digits.")],
    since: Annotated[str | None, typer.Option(help="Received then or later; sooner found: 7d, 2026-01-31.")] = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Tell an asset's story: each event, when it was received, which is a repeat, out of order or missing.

    Reads every partition of the contract's topics, because a topic that grew has an asset on several.
    Ends with 1 when an event is missing, or nothing is known.

    Example: `gumlet-bridge assets show 5fd088e0a47da8246f1fb756 --since 7d`
    """
    lines = asyncio.run(_find(config.load(config_file), asset_id, moment(since) if since else None))
    if not lines:
        raise BridgeError(
            f"{asset_id}: Kafka has no event of it. Fix: an earlier --since; an event older than its topic's "
            "retention is gone, and one that never came is published by `gumlet-bridge reconcile`."
        )
    story, missing = tell(lines)
    show_rows(story, ("received_at", "type", "topic", "partition", "offset", "note"), as_json=as_json, title=asset_id)
    for event_type in missing:
        if as_json or piped():
            write_line({"asset_id": asset_id, "type": event_type, "note": "missing"})
        else:
            typer.secho(f"{event_type} is missing: it never came, or is older than its topic keeps.", fg="yellow")
    if missing:
        raise typer.Exit(1)


async def _find(settings: Settings, asset_id: str, since: int | None) -> list[dict[str, Any]]:
    topics = {topic.name for topic in Contract.load(settings.topics.prefix).topics.values()}
    key = asset_id.encode()
    found = []
    async with open_reader(settings.kafka, topics) as reader:
        with progress("records read", await reader.count()) as move_on:
            async for record in reader.records("beginning" if since is None else since):
                move_on(1)
                if record.key == key:
                    found.append(described(record))
    return found
