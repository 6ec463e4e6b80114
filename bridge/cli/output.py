"""What the tools share: how they print (a table for people, JSON lines for pipes), read a time, show progress."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file of settings; the environment wins over it."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON lines. It is what a pipe or a file gets without asking.")
]

Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="File to write; otherwise standard output.")
]

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def moment(value: str) -> int:
    """Read a time: an age (`30m`, `2h`, `7d`) or a date with or without its time. Milliseconds since 1970."""
    if match := re.fullmatch(r"(\d+)([smhdw])", value.strip()):
        return int(time.time() * 1000) - int(match[1]) * _UNITS_MS[match[2]]
    try:
        return int(datetime.fromisoformat(value.strip()).astimezone().timestamp() * 1000)
    except ValueError as error:
        raise typer.BadParameter(
            f"{value!r} is no time: an age such as 30m, 2h or 7d, or a date such as 2026-01-31T08:00:00Z"
        ) from error


def piped() -> bool:
    """Tell whether a program reads what is printed."""
    return not sys.stdout.isatty()


def write_line(value: Any) -> None:
    """Print one JSON line, at once."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode())
    sys.stdout.flush()


def printable(value: Any) -> str:
    """Return text from outside without what a terminal would take for a command."""
    text = "" if value is None else str(value)
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def show_rows(rows: Iterable[dict[str, Any]], columns: Iterable[str], *, as_json: bool, title: str = "") -> None:
    """Print rows: as JSON lines with everything, or as a table of those of `columns` that are not empty."""
    if as_json or piped():
        for row in rows:
            write_line(row)
        return
    shown = list(rows)
    names = [name for name in columns if any(row.get(name) not in (None, "") for row in shown)]
    table = Table(title=title or None)
    for name in names:
        table.add_column(name, overflow="fold")  # an id that is cut short is of no use
    for row in shown:
        table.add_row(*(Text(printable(row.get(name))) for name in names))
    Console().print(table if table.row_count else "None.")


def export_lines(lines: Iterable[Any], output: Path | None, what: str) -> None:
    """Write JSON lines to a file, and tell how many of `what`; without a file, to standard output."""
    if output is None:
        for line in lines:
            write_line(line)
        return
    count = 0
    try:
        with output.open("wb") as file:
            for line in lines:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                count += 1
    except OSError as error:
        raise BridgeError(f"{output}: {error.strerror}. Fix: name a file that can be written.") from error
    typer.echo(f"{count} {what} written to {output}.", err=True)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's standard error; yield what moves it on by so many."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
