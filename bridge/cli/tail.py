"""`gumlet-bridge tail`: events as they arrive on Kafka, one line each for people, JSON lines for programs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from bridge.cli.output import (
    AsJson,
    ConfigFile,
    echo,
    event_line,
    is_piped,
    make_app,
    parse_time,
    write_document,
    write_line,
)
from bridge.config import settings as config
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.record_view import record_to_dict
from bridge.operations.topic_reader import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.config.settings import Settings

app = make_app()


@app.command()
def tail(  # noqa: PLR0913 - one parameter for each option
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]...", help="Topics or event types; all of the contract when none is named."),
    ] = None,
    *,
    asset: Annotated[str | None, typer.Option(help="Only events of this asset.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only this type: video.status.ready.")] = None,
    since: Annotated[str, typer.Option(help="now, beginning, or a time: 30m, 2h, 2026-01-31T08:00:00Z.")] = "now",
    follow: Annotated[
        bool, typer.Option(help="Continue with new events; --no-follow stops at the current end.")
    ] = True,
    full: Annotated[bool, typer.Option("--full", help="Print each event as an indented JSON document.")] = False,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Print events in order of time as they arrive on their topics. Ctrl-C ends.

    Reads Kafka without a consumer group; changes nothing. Each event is one line, and one JSON line in a pipe.

    Examples:
    - `gumlet-bridge tail video.status.ready video.status.errored`

    - `gumlet-bridge tail --since 2h --asset 5fd088e0a47da8246f1fb756 --full`

    - `gumlet-bridge tail --since beginning --no-follow | jq -r .event.error.code | sort | uniq -c`
    """
    settings = config.load(config_file)
    start: Any = {"now": "end", "beginning": "beginning"}.get(since) or parse_time(since)
    show = _choose_printer(full=full, as_json=as_json)

    def show_matching(line: dict[str, Any]) -> None:
        if asset in (None, line["asset_id"]) and event_type in (None, line["type"]):
            show(line)

    with suppress(KeyboardInterrupt):
        asyncio.run(_tail(settings, topics or [], start, show_matching, follow=follow))


def _choose_printer(*, full: bool, as_json: bool) -> Callable[[dict[str, Any]], None]:
    if as_json or (is_piped() and not full):
        return write_line
    if full:
        return write_document
    console = Console(highlight=False)
    return lambda line: console.print(event_line(line), soft_wrap=True)


async def _tail(
    settings: Settings,
    asked: list[str],
    start: Literal["beginning", "end"] | int,
    show: Callable[[dict[str, Any]], None],
    *,
    follow: bool,
) -> None:
    contract = Contract.load(settings.topics.prefix)
    # A topic is named by its full name or by its event type.
    names = {contract.topics[name].name if name in contract.topics else name for name in asked}
    topics = names or {topic.name for topic in contract.topics.values()}
    async with open_reader(settings.kafka, topics) as reader:
        if missing := topics - set(reader.topics):
            message = (
                f"Topics not found on Kafka: {', '.join(sorted(missing))}. Fix: a topic or an event type from "
                "`gumlet-bridge topics list`, BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
            if not reader.topics:
                raise BridgeError(message)
            if asked:
                echo(message, style="yellow")
        async for record in reader.records(start, follow=follow):
            show(record_to_dict(record))
