"""`gumlet-bridge tail`: the events on Kafka as they come, readable for people, JSON lines for programs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import jmespath
import orjson
import typer
from rich.console import Console
from rich.text import Text

from bridge.cli.output import AsJson, ConfigFile, moment, piped, printable, write_line
from bridge.config import settings as config
from bridge.contract.converters import rfc3339
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.topic_reader import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import ConsumerRecord

    from bridge.config.settings import Settings

TYPE_PREFIX = "com.gumlet."

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def tail(  # noqa: PLR0913 - one parameter for each option
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]...", help="Topics or event types; all of the contract when none is named."),
    ] = None,
    asset: Annotated[str | None, typer.Option(help="Only events of this asset.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only this type: video.status.ready.")] = None,
    path: Annotated[
        str | None,
        typer.Option(help="JMESPath into the event's value: print what it finds, skip events where that is nothing."),
    ] = None,
    since: Annotated[
        str, typer.Option("--from", help="now, beginning, or a time: 30m, 2h, 2026-01-31T08:00:00Z.")
    ] = "now",
    *,
    follow: Annotated[bool, typer.Option(help="Go on with what comes; --no-follow ends at the present end.")] = True,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Print events as they reach their topics. Ctrl-C ends.

    Examples:
    `gumlet-bridge tail video.status.ready video.status.errored`

    `gumlet-bridge tail --from 2h --asset 5fd088e0a47da8246f1fb756`

    `gumlet-bridge tail --from beginning --no-follow --path 'error.code' | sort | uniq -c`

    `gumlet-bridge tail --path "{asset: asset_id, bytes: output.storage_bytes}"`
    """
    settings = config.load(config_file)
    start: Any = {"now": "end", "beginning": "beginning"}.get(since) or moment(since)
    with suppress(KeyboardInterrupt):
        asyncio.run(
            _tail(
                settings,
                _names(settings, topics or []),
                start,
                _shown(asset, event_type, path, _printer(as_json=as_json or piped())),
                follow=follow,
                asked=bool(topics),
            )
        )


def _names(settings: Settings, asked: list[str]) -> set[str]:
    """Return the topics meant: a name may be a topic's whole name, or an event type of the contract."""
    contract = Contract.load(settings.topics.prefix)
    if not asked:
        return {topic.name for topic in contract.topics.values()}
    return {contract.topics[name].name if name in contract.topics else name for name in asked}


def _printer(*, as_json: bool) -> Callable[[ConsumerRecord, Any], None]:
    if as_json:
        return lambda _, found: write_line(found)
    console = Console(highlight=False)
    return lambda record, found: console.print(_readable(record, found), soft_wrap=True)


def _shown(
    asset: str | None, event_type: str | None, path: str | None, show: Callable[[ConsumerRecord, Any], None]
) -> Callable[[ConsumerRecord], None]:
    """Return what shows a record if it passes the filters."""
    try:
        expression = jmespath.compile(path) if path else None
    except jmespath.exceptions.JMESPathError as error:
        raise typer.BadParameter(f"{path!r} is no JMESPath: {error}", param_hint="--path") from error

    def see(record: ConsumerRecord) -> None:
        if asset is not None and record.key != asset.encode():
            return
        line = described(record)
        if event_type is not None and line["type"] != event_type:
            return
        if expression is None:
            show(record, line)
            return
        with suppress(jmespath.exceptions.JMESPathError):  # a function that cannot take this event's value
            found = expression.search(line["event"])
            if found is not None and found is not False:
                show(record, found)

    return see


def described(record: ConsumerRecord) -> dict[str, Any]:
    """Return a record as the JSON line that `gumlet-bridge tail` prints."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    try:
        event = orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError:
        event = (record.value or b"").decode(errors="replace")
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "received_at": rfc3339(record.timestamp),
        "id": headers.get("ce_id"),
        "type": headers.get("ce_type", "").removeprefix(TYPE_PREFIX),
        "origin": headers.get("ce_origin"),
        "asset_id": record.key.decode(errors="replace") if record.key is not None else None,
        "event": event,
    }


def _readable(record: ConsumerRecord, found: Any) -> Text:
    time = datetime.fromtimestamp(record.timestamp / 1000).astimezone()
    about = found.get("event", found) if isinstance(found, dict) else found
    return Text.assemble(
        (f"{time:%Y-%m-%d %H:%M:%S}  ", "dim"),
        (record.topic, "cyan"),
        (f"  {record.partition}/{record.offset}", "dim"),
        (f"  {printable(record.key.decode(errors='replace') if record.key else '-')}  ", "bold"),
        printable(about if isinstance(about, str) else orjson.dumps(about).decode()),
    )


async def _tail(  # noqa: PLR0913 - which topics, from where, what to do with each record, and until when
    settings: Settings,
    topics: set[str],
    start: Any,
    see: Callable[[ConsumerRecord], None],
    *,
    follow: bool,
    asked: bool,
) -> None:
    async with open_reader(settings.kafka, topics) as reader:
        if missing := topics - set(reader.topics):
            told = (
                f"Kafka does not have {', '.join(sorted(missing))}. Fix: a topic or an event type from `gumlet-bridge topics "
                "list`, BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
            if not reader.topics:
                raise BridgeError(told)
            if asked:
                typer.echo(f"bridge: {told}", err=True)
        async for record in reader.records(start, follow=follow):
            see(record)
