"""`gumlet-bridge simulate`: sends webhooks for simulated videos and reports the responses."""

from __future__ import annotations

import asyncio
import secrets
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from yarl import URL

from bridge.cli.output import make_app
from bridge.config import settings as config
from bridge.devtools.load_generator import LoadGenerator, LoadProfile, LoadReport
from bridge.errors import BridgeError
from bridge.ingress.tokens import active_tokens
from bridge.operations.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EX_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

app = make_app()


@app.command()
def simulate(  # noqa: PLR0913 - one parameter for each option
    *,
    url: Annotated[str, typer.Option(help="Webhook URL: .../webhooks/gumlet or .../webhooks/gumlet/SOURCE.")] = (
        "http://127.0.0.1:8080/webhooks/gumlet"
    ),
    token: Annotated[
        str | None,
        typer.Option(help="Value of the header x-gumlet-token.", show_default="the first of BRIDGE_TOKENS"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the token.", exists=True, dir_okay=False, show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of deliveries.")] = 1000,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Maximum requests per second, retries included.", show_default="no limit"),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Number of concurrent assets (one in-flight delivery each).")
    ] = 64,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed and count send the same bodies.", show_default="a new one"),
    ] = None,
    retry_after: Annotated[
        float,
        typer.Option(min=0, help="Seconds before a rejected delivery is retried: Gumlet's half hour, scaled."),
    ] = 5.0,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Share of deliveries to send a second time: 0.1 is about a tenth.")
    ] = 0.0,
    ack_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a JSON line per acknowledged delivery: id (its ce_id), type, asset_id, sequence.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Simulate Gumlet: send webhooks for simulated videos, retry rejected deliveries, and report the results.

    Only `video.status.*` is sent, and the events of a video in order. Some bodies of `repackaged` are equal, as those
    of Gumlet are, and share an id: the report has the number of distinct ids. A delivery without a 2xx response is
    retried after --retry-after, with 48 attempts in all, as Gumlet does over a day. Exit codes: 0 every delivery was
    acknowledged, 1 some were given up or the token is wrong, 130 interrupted.

    Examples:
    - `gumlet-bridge simulate --token dev --count 50`

    - `gumlet-bridge simulate --rate 200 --count 720000` (an hour of load)

    - `gumlet-bridge simulate --count 500 --duplicates 0.1` (for testing consumers)

    - `gumlet-bridge simulate --retry-after 0.5 --ack-log sent.jsonl` (to compare with Kafka after a crash test)
    """
    target = URL(url)
    if target.scheme not in ("http", "https") or not target.host:
        raise typer.BadParameter(f"{url!r} is not an http:// or https:// URL", param_hint="--url")
    profile = LoadProfile(
        url=target,
        token=_find_token(token, token_file),
        count=count,
        seed=secrets.randbits(32) if seed is None else seed,
        concurrency=concurrency,
        retry_after=retry_after,
        duplicates=duplicates,
    )
    report = LoadReport()
    interrupted = False
    try:
        # Unbuffered: the file has every line that was written, however this process ends.
        file = ack_log.open("wb", buffering=0) if ack_log else None
    except OSError as error:
        raise BridgeError(f"--ack-log {ack_log}: {error.strerror}. Fix: name a file that can be written.") from error
    throttle = RateLimiter(1, 1 / rate).acquire if rate else None
    try:
        uvloop.run(_send(profile, report, file, throttle))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if file:
            file.close()
    report.end()
    figures = report.report(profile)
    if as_json:
        sys.stdout.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    else:
        Console().print(_build_table(figures))
    if interrupted:
        raise typer.Exit(EX_INTERRUPTED)
    if report.given_up:
        raise typer.Exit(1)


async def _send(
    profile: LoadProfile,
    report: LoadReport,
    ack_log: BinaryIO | None,
    throttle: Callable[[], Awaitable[None]] | None,
) -> None:
    """Send the deliveries and show a progress bar."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("acknowledged", total=profile.count)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(LoadGenerator(profile, report, ack_log, throttle).run())
            while not sending.done():  # drawn at intervals, so that drawing does not slow down sending
                if report.rejected[HTTPStatus.UNAUTHORIZED] and not report.acknowledged:
                    sending.cancel()
                rejected = sum(report.rejected.values())
                note = f", {rejected} rejected" if rejected else ""
                progress.update(bar, completed=report.acknowledged, description=f"acknowledged{note}")
                await asyncio.wait((sending,), timeout=0.2)
    if report.rejected[HTTPStatus.UNAUTHORIZED] and not report.acknowledged:
        cause = "it is not one that the bridge accepts" if profile.token else "none was sent"
        raise BridgeError(f"401 from {profile.url}: {cause}. Fix: set --token to a token of the bridge.")


def _find_token(token: str | None, token_file: Path | None) -> str | None:
    """Return the token of the options, or the first token of the bridge's configuration."""
    if token:
        return token
    if token_file is None:
        settings = config.load()
        if settings.token_list:
            return settings.token_list[0].get_secret_value()
        token_file = settings.tokens_file
    return next(iter(active_tokens(token_file)), None) if token_file else None


def _build_table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['deliveries']} deliveries, seed {figures['seed']}", show_header=False, min_width=48)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests sent", str(figures["sent"]))
    table.add_row("acknowledged", str(figures["acknowledged"]))
    if figures["duplicates"]:
        table.add_row("sent a second time", str(figures["duplicates"]))
    table.add_row("distinct ids (ce_id)", str(figures["distinct_ids"]))
    for status, count in figures["rejected"].items():
        hint = " (set --token)" if status == "401" else ""
        table.add_row(f"rejected with {status}{hint}", str(count), style="yellow")
    for name, label in (
        ("connection_errors", "connection errors"),
        ("given_up", "given up"),
        ("unfinished", "not finished"),
    ):
        table.add_row(label, str(figures[name]), style="red" if figures[name] else None)
    table.add_row("acknowledged per second", f"{figures['acknowledged_per_second']:.1f}")
    for name, value in figures["latency_ms"].items():
        table.add_row(f"latency {name}, closed loop", "-" if value is None else f"{value:.1f} ms")
    table.add_row("longest gap between acknowledgements", f"{figures['max_gap_seconds']:.3f} s")
    return table
