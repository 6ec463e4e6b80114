"""`gumlet-bridge journal`: the pending deliveries of a journal on disk, and whether it is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bridge.cli.filters import DeliveryFilter, with_filter_options
from bridge.cli.journal_drain import Directory, drain
from bridge.cli.output import AsJson, ConfigFile, Output, echo, export_lines, make_app, progress, show_rows
from bridge.config import settings as config
from bridge.contract.converters import rfc3339
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import DEAD_LETTER, Contract
from bridge.errors import BridgeError
from bridge.event import Delivery, Event
from bridge.operations.journal_reader import JournalEntry, open_reader
from bridge.operations.record_view import decode_body

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bridge.config.settings import Settings

COLUMNS = ("number", "received_at", "source", "topic", "asset_id", "reason", "parked")

app = make_app("List, check and drain the journal of a daemon, running or not.")
app.command()(drain)


@app.command("list")
@with_filter_options
def list_(  # noqa: PLR0913 - one parameter for each option
    *,
    wanted: DeliveryFilter,
    with_body: Annotated[bool, typer.Option("--with-body", help="Print JSON lines that include the bodies.")] = False,
    output: Output = None,
    directory: Directory = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """List the pending deliveries; with `--with-body`, export them.

    Safe next to a running daemon; nothing is removed. Each line shows what the current normalizer makes of the
    delivery: its topic, its id, and of a dead letter the reason. A body that is neither JSON nor text is in
    `body_base64`. Exits with 1 when a part of the journal is damaged.

    Examples:
    - `gumlet-bridge journal list --dir /var/lib/bridge --type video.status.ready --since 2h`

    - `gumlet-bridge journal list --with-body --output pending.jsonl`
    """
    settings = config.load(config_file)
    lines = _lines(settings, directory or settings.journal.dir, wanted)
    if with_body or output is not None:
        bodies = ((about | decode_body(delivery.body)) if with_body else about for about, delivery in lines)
        export_lines(bodies, output, "deliveries")
        return
    show_rows(
        (about for about, _ in lines),
        COLUMNS,
        as_json=as_json,
        empty="Nothing is pending: everything is on Kafka."
        if wanted == DeliveryFilter()
        else "No pending deliveries match these filters.",
    )


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or its number in `list`.")],
    directory: Directory = None,
    config_file: ConfigFile = None,
) -> None:
    """Show one pending delivery with its body. Exits with 1 when no pending delivery matches.

    Example: `gumlet-bridge journal show 4711 --dir /var/lib/bridge`
    """
    settings = config.load(config_file)
    found = False
    for about, delivery in _lines(settings, directory or settings.journal.dir, DeliveryFilter(event_id=event_id)):
        found = True
        typer.echo(orjson.dumps(about | decode_body(delivery.body), option=orjson.OPT_INDENT_2).decode())
    if not found:
        raise BridgeError(
            f"{event_id}: no pending delivery has this id or number. Fix: use one from `gumlet-bridge journal list`; a "
            "delivery that is not listed is on Kafka."
        )


@app.command()
def verify(
    directory: Directory = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Check every byte of the journal: checksums, sequence numbers, and that nothing is missing.

    Safe next to a running daemon. Prints a line for each damaged place with the number of lost deliveries and the
    quarantined copy, and a summary of what was checked. Exits with 1 when there is damage.

    Example: `gumlet-bridge journal verify --dir /var/lib/bridge`
    """
    with open_reader(directory or config.load(config_file).journal.dir) as reader:
        pending = parked = 0
        with progress("deliveries checked", reader.count()) as advance:
            for entry in reader.entries():
                advance(1)
                pending += 1
                parked += entry.parked is not None
        columns = ("segment", "offset", "bytes", "lost", "copy", "detail")
        show_rows((each._asdict() for each in reader.problems), columns, as_json=as_json, empty="No damage.")
        echo(
            f"Checked {reader.segments} segments ({reader.segment_bytes} bytes) in {reader.directory}: every checksum, "
            f"the order of the sequence numbers, and bytes outside of frames. {pending} deliveries are pending "
            f"({parked} parked), {len(reader.problems)} places are damaged, "
            f"{sum(each.lost for each in reader.problems)} deliveries are lost. "
            f"{len(reader.quarantined())} files are in quarantine."
        )
        if reader.problems:
            echo(
                "Fix: check the disk. The bridge continues behind damage by itself; `gumlet-bridge reconcile` (with "
                "BRIDGE_GUMLET_API_KEY) publishes the final states of lost deliveries."
            )
            raise typer.Exit(1)


def _lines(settings: Settings, directory: Path, wanted: DeliveryFilter) -> Iterator[tuple[dict[str, Any], Delivery]]:
    """Yield the matching deliveries, each with its description; then exit with 1 if there is damage."""
    normalizer = Normalizer(Contract.load(settings.topics.prefix))
    with open_reader(directory) as reader:
        with progress("deliveries read", reader.count()) as advance:
            for entry in reader.entries():
                advance(1)
                about = _describe(entry, normalizer.event(entry.delivery))
                if wanted.matches(entry.delivery.received_ms, about, (about["number"], about["id"])):
                    yield about, entry.delivery
        for problem in reader.problems:
            echo(f"gumlet-bridge: {problem}")
        if reader.problems:
            raise typer.Exit(1)


def _describe(entry: JournalEntry, event: Event) -> dict[str, Any]:
    about: dict[str, Any] = {
        "number": entry.number,
        "id": event.id,
        "received_at": rfc3339(entry.delivery.received_ms),
        "source": entry.delivery.source,
        "topic": event.topic,
        "size_bytes": len(entry.delivery.body),
    }
    value = orjson.loads(event.value)
    if (event_type := value.get("event_type") or value.get("type")) is not None:
        about["event_type"] = event_type
    if event.key is not None:
        about["asset_id"] = event.key.decode()
    if event.event_type == DEAD_LETTER:
        about |= {name: value[name] for name in ("reason", "detail", "pointer") if name in value}
    return about if entry.parked is None else about | {"parked": entry.parked}
