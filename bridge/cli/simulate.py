"""`gumlet-bridge simulate`: send what Gumlet would send, and say how it was received."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from yarl import URL

from bridge.cli.mock_gumlet import API_KEY, MockServerOptions, rehearse
from bridge.config import settings as config
from bridge.config.address import parse_address
from bridge.devtools.load_generator import LoadReport, Plan, Sender
from bridge.errors import BridgeError
from bridge.ingress.tokens import active_tokens

EX_INTERRUPTED = 130
"""What a shell makes of a program that Ctrl-C ended."""


async def _send_and_show(plan: Plan, tally: LoadReport, acknowledged: BinaryIO | None) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("acknowledged", total=plan.count)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(Sender(plan, tally, acknowledged).run())
            while not sending.done():  # not at each delivery: drawing must not slow down the sending
                lost = tally.sent - tally.acknowledged
                note = f", {lost} on their way or refused" if lost > plan.concurrency else ""
                progress.update(bar, completed=tally.acknowledged, description=f"acknowledged{note}")
                await asyncio.wait((sending,), timeout=0.2)


def _token(token: str | None, token_file: Path | None) -> str | None:
    """Return the token to send: an option's, or the first that the bridge itself would accept."""
    if token:
        return token
    if token_file is None:
        settings = config.load()
        if settings.token_list:
            return settings.token_list[0].get_secret_value()
        token_file = settings.tokens_file
    return next(iter(active_tokens(token_file.read_text())), None) if token_file else None


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report['deliveries']} deliveries, seed {report['seed']}", show_header=False, min_width=48)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests sent", str(report["sent"]))
    table.add_row("acknowledged", str(report["acknowledged"]))
    for status, times in report["refused"].items():
        hint = " (set --token)" if status == "401" else ""
        table.add_row(f"refused with {status}{hint}", str(times), style="yellow")
    for name, label in (
        ("connection_errors", "connection errors"),
        ("given_up", "given up"),
        ("unfinished", "not finished"),
    ):
        table.add_row(label, str(report[name]), style="red" if report[name] else None)
    table.add_row("acknowledged per second", f"{report['acknowledged_per_second']:.1f}")
    for name, value in report["latency_ms"].items():
        table.add_row(f"latency {name}, closed loop", "-" if value is None else f"{value:.1f} ms")
    table.add_row("longest time without any", f"{report['longest_silence_seconds']:.3f} s")
    return table


app = typer.Typer(rich_markup_mode="markdown")


def _rehearse(api: str, count: int, rate: float | None, retry_after: float, seed: int | None) -> None:
    try:
        listen = parse_address(api)
    except ValueError as error:
        raise typer.BadParameter(f"{api!r} {error}", param_hint="--api") from error
    key = config.load().gumlet.api_key
    uvloop.run(
        rehearse(
            MockServerOptions(
                listen=listen,
                api_key=key.get_secret_value() if key else API_KEY,
                seed=secrets.randbits(32) if seed is None else seed,
                count=count,
                pace=1 / rate if rate else 0.0,
                retry_interval=retry_after,
            )
        )
    )


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - one parameter for each option
    url: Annotated[str, typer.Option(help="Where to send: .../webhooks/gumlet or .../webhooks/gumlet/SOURCE.")] = (
        "http://127.0.0.1:8080/webhooks/gumlet"
    ),
    token: Annotated[
        str | None,
        typer.Option(help="Sent as x-gumlet-token; otherwise BRIDGE_TOKENS' first.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the token.", exists=True, dir_okay=False, show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many deliveries.")] = 1000,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Most requests a second, retries included.", show_default="no limit"),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="How many assets at a time; each has one delivery on its way.")
    ] = 64,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed and count send the same bodies again.", show_default="a new one"),
    ] = None,
    retry_after: Annotated[
        float,
        typer.Option(min=0, help="Seconds before a refused delivery is tried again: Gumlet's half hour, scaled."),
    ] = 5.0,
    acknowledged: Annotated[
        Path | None,
        typer.Option(
            help="Write a JSON line per acknowledged delivery: id (its ce_id), type, asset_id, sequence.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,  # noqa: FBT002
    api: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve Gumlet's API here, and deliver to who subscribes there; --count is then of assets, "
            "--rate of events.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Be Gumlet: send webhooks of simulated videos, retry what is refused, report how it went.

    Each video lives through its events in order. A refusal (anything but 2xx, or a broken connection) is
    tried again after --retry-after, 48 times in all: a day of Gumlet's half hours. Ends with 0 when
    everything was acknowledged, with 1 when some was given up.

    Examples:
    `gumlet-bridge simulate --token dev --count 50`

    `gumlet-bridge simulate --rate 200 --count 720000` (a steady hour)

    `gumlet-bridge simulate --retry-after 0.5 --acknowledged sent.jsonl` (what a crash test must find again)

    `gumlet-bridge simulate --api 127.0.0.1:8090 --count 20 --rate 5` (Gumlet's API too, for `gumlet-bridge webhooks` and others)
    """
    if api is not None:
        _rehearse(api, count, rate, retry_after, seed)
        return
    target = URL(url)
    if target.scheme not in ("http", "https") or not target.host:
        raise typer.BadParameter(f"{url!r} is not an http:// or https:// URL", param_hint="--url")
    plan = Plan(
        url=target,
        token=_token(token, token_file),
        count=count,
        seed=secrets.randbits(32) if seed is None else seed,
        rate=rate,
        concurrency=concurrency,
        retry_after=retry_after,
    )
    tally = LoadReport()
    interrupted = False
    # Unbuffered: whatever ends this process, the file has every line that was written.
    try:
        file = acknowledged.open("wb", buffering=0) if acknowledged else None
    except OSError as error:
        raise BridgeError(f"--acknowledged {acknowledged}: {error.strerror}") from error
    try:
        uvloop.run(_send_and_show(plan, tally, file))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if file:
            file.close()
    tally.end()
    report = tally.report(plan)
    if as_json:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    else:
        Console().print(_table(report))
    if interrupted:
        raise typer.Exit(EX_INTERRUPTED)
    if tally.given_up:
        raise typer.Exit(1)
