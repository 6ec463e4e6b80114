"""`bridge journal`: what a journal on disk holds, and what can be got out of a damaged one."""

from __future__ import annotations

import base64
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from bridge import config
from bridge.errors import BridgeError
from bridge.event import Delivery
from bridge.journal_file import FILE_NAME, Group, JournalFile, lock, pack
from bridge.journal_salvage import Salvage
from bridge.journal_salvage import salvage as read_damaged

PUT_BACK = 500
"""Deliveries put back in one commit."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="The journal on disk: what is set aside as damaged, and how to get it out.",
)


@app.command("list")
def list_damaged(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The journal's directory.", show_default="BRIDGE_JOURNAL_DIR")
    ] = None,
) -> None:
    """Show the files that were set aside because they were damaged, and what can be read of each.

    Example: `bridge journal list --dir /var/lib/bridge`
    """
    for path in _damaged(directory or config.load().journal.dir):
        _tell(path, _read(path))


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
    `bridge journal salvage journal.sqlite.damaged-* > deliveries.jsonl`

    `bridge journal salvage --into /var/lib/bridge /var/lib/bridge/journal.sqlite.damaged-20260101T000000.000000Z`
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


def _damaged(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob(f"{FILE_NAME}.damaged-*") if not path.name.endswith(("-wal", "-shm")))


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
