"""Shared by the commands: common options, output for people and for programs, confirmation, time arguments.

People get tables and sentences, programs (a pipe, a file, `--json`) JSON lines. Text from outside (deliveries, Kafka,
Gumlet's API) passes `printable` before it reaches a terminal.
"""

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
from bridge.operations.record_view import summarize
from bridge.telemetry.logging import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML settings file; environment variables take precedence."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON lines. Default when standard output is not a terminal.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Write JSON lines to this file."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_TOPIC_STYLES = {"dead-letter": "red", "unrecognized": "yellow", "errored": "red", "ready": "green"}


def make_app(help_text: str = "") -> typer.Typer:
    """Return a Typer application for one command or, with `help_text`, for a group of commands."""
    # Only the root offers to install shell completion.
    return typer.Typer(
        no_args_is_help=bool(help_text), add_completion=False, rich_markup_mode="markdown", help=help_text or None
    )


def parse_time(value: str) -> int:
    """Return milliseconds since 1970 for an age (`30m`, `2h`, `7d`) or an ISO 8601 date with an optional time.

    A time without a zone is local.
    """
    if match := re.fullmatch(r"(\d+)([smhdw])", value.strip()):
        return int(time.time() * 1000) - int(match[1]) * _UNITS_MS[match[2]]
    try:
        return int(datetime.fromisoformat(value.strip()).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{value!r} is not a time. Use an age such as 30m, 2h or 7d, or a date such as 2026-01-31T08:00:00Z"
        ) from error


def is_piped() -> bool:
    """Return whether standard output is something other than a terminal."""
    return not sys.stdout.isatty()


def echo(text: str, *, style: str | None = None) -> None:
    """Print a message for people on standard error, so that standard output holds results only."""
    Console(stderr=True, highlight=False).print(Text(printable(text), style=style or ""), soft_wrap=True)


def write_line(value: Any) -> None:
    """Print one JSON line and flush."""
    line = orjson.dumps(value).decode()
    sys.stdout.write(f"{line if is_piped() else printable(line)}\n")
    sys.stdout.flush()


def write_document(value: Any) -> None:
    """Print one indented JSON document."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    typer.echo(text if is_piped() else "\n".join(map(printable, text.splitlines())))


def show_rows(
    rows: Iterable[dict[str, Any]],
    columns: Iterable[str],
    *,
    as_json: bool,
    title: str = "",
    empty: str = "Nothing found.",
) -> None:
    """Print rows as complete JSON lines, or as a table of the `columns` that have a value in any row.

    `empty` is the message when there are no rows.
    """
    if as_json or is_piped():
        for row in rows:
            write_line(row)
        return
    shown = list(rows)
    names = [name for name in columns if any(row.get(name) not in (None, "") for row in shown)]
    console = Console(highlight=False)
    if not shown:
        console.print(Text(printable(empty)), soft_wrap=True)
        return
    cells = [[_cell(row.get(name)) for name in names] for row in shown]
    widths = _fit(names, cells, console.width)
    if widths is None:
        _print_records(console, names, cells, title)
        return
    table = Table(title=Text(printable(title)) if title else None)
    for name, width in zip(names, widths, strict=True):
        table.add_column(name, width=width)
    for row_cells in cells:
        table.add_row(*map(Text, row_cells))
    console.print(table)


def _cell(value: Any) -> str:
    return ", ".join(map(printable, value)) if isinstance(value, list | tuple) else printable(value)


def _fit(names: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return column widths at which no word is broken; None when the terminal is too narrow for that."""
    columns = [[name, *column] for name, column in zip(names, zip(*cells, strict=True), strict=True)]
    smallest = [max((Text(word).cell_len for text in column for word in text.split()), default=1) for column in columns]
    natural = [max(Text(text).cell_len for text in column) for column in columns]
    spare = width - 1 - 3 * len(names) - sum(smallest)
    if spare < 0:
        return None
    widths = list(smallest)
    by_need = sorted(range(len(names)), key=lambda index: natural[index] - smallest[index])
    for left, index in zip(range(len(names), 0, -1), by_need, strict=True):
        added = min(natural[index] - smallest[index], spare // left)
        widths[index] += added
        spare -= added
    return widths


def _print_records(console: Console, names: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    """Print each row as a block of `name  value` lines."""
    if title:
        console.print(Text(printable(title), style="italic"))
    margin = max(map(len, names))
    for row in cells:
        console.print()
        for name, cell in zip(names, row, strict=True):
            if cell:
                console.print(Text.assemble((f"{name:<{margin}}  ", "bold"), cell), soft_wrap=True)


def event_line(line: dict[str, Any]) -> Text:
    """Return one line about a record of `record_to_dict`: when it was received, where it is, its key, its content."""
    style = _TOPIC_STYLES.get(line["topic"].rpartition(".")[2], "cyan")
    received = datetime.fromisoformat(line["received_at"]).astimezone()
    return Text.assemble(
        (received.isoformat(" ", timespec="milliseconds"), "dim"),
        ("  ", ""),
        (printable(line["topic"]), style),
        (f"  {line['partition']}/{line['offset']}", "dim"),
        (f"  {printable(line['asset_id'] or '-')}  ", "bold"),
        (printable(summarize(line["event"])), ""),
    )


def export_lines(lines: Iterable[Any], output: Path | None, what: str) -> None:
    """Write JSON lines to a file and report the number of `what`; without a file, to standard output."""
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
    echo(f"{count} {what} written to {output}.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before a change; end the command on a negative answer, or when standard input is not a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BridgeError(
            f"{question} Standard input is not a terminal. Fix: add --yes to proceed without asking, or --dry-run "
            "to see what would change."
        )
    typer.confirm(question, abort=True, err=True)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error when that is a terminal; yield the function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
