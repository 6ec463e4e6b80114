"""`gumlet-bridge journal`: what a journal on disk holds, getting it to Kafka without a daemon, and out of a damaged file."""

from __future__ import annotations

import base64
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bridge.cli.filters import DeliveryFilter, with_filter_options
from bridge.cli.journal_drain import Directory, damaged, drain
from bridge.cli.output import AsJson, ConfigFile, Output, export_lines, progress, show_rows
from bridge.config import settings as config
from bridge.contract.converters import rfc3339
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import DEAD_LETTER, Contract
from bridge.errors import BridgeError
from bridge.event import Delivery, Event
from bridge.operations.dead_letters import decode_body
from bridge.operations.journal_reader import Held, viewing
from bridge.operations.journal_salvage import Salvage
from bridge.operations.journal_salvage import salvage as read_damaged
from bridge.queue.interface import Group
from bridge.queue.journal_file import FILE_NAME, JournalFile, lock, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.config.settings import Settings

PUT_BACK = 500
"""Deliveries put back in one commit."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="The journal on disk: what waits in it, whether it is whole, and how to get it out.",
)
app.command()(drain)


@app.command("list")
@with_filter_options
def list_(
    *,
    wanted: DeliveryFilter,
    directory: Directory = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """List the deliveries that wait, without their bodies, and the files that were set aside as damaged.

    Safe beside the running daemon. Each line says what today's normalizer makes of the delivery: its topic, its id,
    and of a dead letter the reason. Ends with 1 when a part of the journal is damaged.

    Examples:
    `gumlet-bridge journal list --dir /var/lib/bridge --type video.status.ready --since 2h`

    `gumlet-bridge journal list | jq -r .topic | sort | uniq -c`
    """
    settings = config.load(config_file)
    where = directory or settings.journal.dir
    for path in damaged(where):
        _tell(path, _read(path))
    lines = _lines(settings, where, wanted)
    columns = ("place", "received_at", "source", "topic", "asset_id", "reason", "parked")
    show_rows(
        (about for about, _ in lines),
        columns,
        as_json=as_json,
        empty="Nothing is pending: everything is on Kafka."
        if wanted == DeliveryFilter()
        else "No pending deliveries match these filters.",
    )


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or its place in `list`.")],
    directory: Directory = None,
    config_file: ConfigFile = None,
) -> None:
    """Show a delivery whole, with its body. Ends with 1 when there is none.

    Example: `gumlet-bridge journal show 4711 --dir /var/lib/bridge`
    """
    settings = config.load(config_file)
    found = False
    for about, delivery in _lines(settings, directory or settings.journal.dir, DeliveryFilter(event_id=event_id)):
        found = True
        typer.echo(orjson.dumps(about | decode_body(delivery.body), option=orjson.OPT_INDENT_2).decode())
    if not found:
        raise BridgeError(
            f"{event_id}: no such delivery waits. Fix: take an id or a place from `gumlet-bridge journal list`; what has left "
            "is on Kafka."
        )


@app.command()
@with_filter_options
def export(
    *,
    wanted: DeliveryFilter,
    output: Output = None,
    directory: Directory = None,
    config_file: ConfigFile = None,
) -> None:
    """Write the deliveries that wait as JSON lines: what `list` says of each, and its `body`.

    A body that is neither JSON nor text is in `body_base64`. Safe beside the running daemon; nothing leaves the
    journal. Ends with 1 when a part of the journal is damaged.

    Example: `gumlet-bridge journal export --dir /var/lib/bridge -o waiting.jsonl`
    """
    settings = config.load(config_file)
    lines = _lines(settings, directory or settings.journal.dir, wanted)
    export_lines((about | decode_body(delivery.body) for about, delivery in lines), output, "deliveries")


@app.command()
def verify(
    directory: Directory = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Check every row's checksum, and the sequence and the running totals from row to row.

    Safe beside the running daemon. One line for each fault; ends with 1 when there is one.

    Example: `gumlet-bridge journal verify --dir /var/lib/bridge`
    """
    with viewing(directory or config.load(config_file).journal.dir) as view:
        count = size = parked = 0
        with progress("deliveries checked", view.count()) as move_on:
            for held in view.held():
                move_on(1)
                count += 1
                parked += held.parked is not None
                size += len(held.delivery.body)
        show_rows(({"fault": each} for each in view.faults), ["fault"], as_json=as_json)
        typer.echo(
            f"{view.path}: {count} deliveries whole ({parked} parked), {size} bytes of bodies, "
            f"{len(view.faults)} faults.",
            err=True,
        )
        if view.faults:
            raise typer.Exit(1)


def _lines(settings: Settings, directory: Path, wanted: DeliveryFilter) -> Iterator[tuple[dict[str, Any], Delivery]]:
    """Yield the deliveries that are meant, each with what is to be said of it; then end with 1 if there are faults."""
    normalizer = Normalizer(Contract.load(settings.topics.prefix))
    with viewing(directory) as view:
        with progress("deliveries read", view.count()) as move_on:
            for held in view.held():
                move_on(1)
                about = _about(held, normalizer.event(held.delivery))
                if wanted.matches(held.delivery.received_ms, about, (about["place"], about["id"])):
                    yield about, held.delivery
        for fault in view.faults:
            typer.echo(f"bridge: {fault}", err=True)
        if view.faults:
            raise typer.Exit(1)


def _about(held: Held, event: Event) -> dict[str, Any]:
    about: dict[str, Any] = {
        "place": held.place,
        "id": event.id,
        "received_at": rfc3339(held.delivery.received_ms),
        "source": held.delivery.source,
        "topic": event.topic,
        "size_bytes": len(held.delivery.body),
    }
    said = orjson.loads(event.value)
    if (event_type := said.get("event_type") or said.get("type")) is not None:
        about["event_type"] = event_type
    if event.key is not None:
        about["asset_id"] = event.key.decode()
    about |= {
        name: said[name] for name in ("reason", "detail", "pointer") if event.event_type == DEAD_LETTER and name in said
    }
    return about if held.parked is None else about | {"parked": held.parked}


@app.command("salvage")
def salvage_(
    files: Annotated[list[Path], typer.Argument(help="Damaged files: journal.sqlite.damaged-…", dir_okay=False)],
    into: Annotated[
        Path | None,
        typer.Option(help="Put the deliveries into the journal in this directory. Its daemon must not run."),
    ] = None,
) -> None:
    """Get out of damaged files whatever is whole, oldest first; the files stay as they are.

    Without --into: a JSON line for each delivery (received_ms, source, body in base64) on standard output. With
    it they are put back, and the daemon publishes them at its next start: some may be on Kafka already, and come
    again with the same id.

    Examples:
    `gumlet-bridge journal salvage journal.sqlite.damaged-* > deliveries.jsonl`

    `gumlet-bridge journal salvage --into /var/lib/bridge /var/lib/bridge/journal.sqlite.damaged-20260101T000000.000000Z`
    """
    found: list[Delivery] = []
    for path in files:
        salvaged = _read(path)
        _tell(path, salvaged)
        found += salvaged.deliveries
    if into is not None:
        _put_back(into, found)
        typer.echo(f"{len(found)} deliveries put into the journal in {into}", err=True)
        return
    for delivery in found:
        line = {
            "received_ms": delivery.received_ms,
            "source": delivery.source,
            "body_base64": base64.b64encode(delivery.body).decode(),
        }
        sys.stdout.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode())


def _read(path: Path) -> Salvage:
    try:
        return read_damaged(path)
    except OSError as error:
        raise BridgeError(f"{path}: {error.strerror}. Fix: name a journal file that can be read.") from error


def _tell(path: Path, found: Salvage) -> None:
    typer.echo(
        f"{path}: {len(found.flowing)} deliveries, {len(found.parked)} parked ones, {found.unreadable} rows unreadable",
        err=True,
    )


def _put_back(directory: Path, deliveries: list[Delivery]) -> None:
    """Append deliveries to a journal, each commit on disk before the next."""
    with lock(directory):
        try:
            file = JournalFile(directory / FILE_NAME)
        except (sqlite3.Error, OSError) as error:
            raise BridgeError(f"journal in {directory}: {error}. Fix: mend the disk or the permissions.") from error
        try:
            last, total = file.extent.last, file.extent.total
            for at in range(0, len(deliveries), PUT_BACK):
                part = deliveries[at : at + PUT_BACK]
                packed = pack(part)
                total += len(packed)
                group = Group(last + 1, last + len(part), part[0].received_ms, len(packed), total, part)
                file.append(group, packed, 0)
                last = group.last
        finally:
            file.close()
