"""`gumlet-bridge mock-gumlet`: a mock of Gumlet's API and webhook deliveries, to test without an account."""

from __future__ import annotations

import asyncio
import secrets
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from aiohttp import web

from bridge.cli.output import echo, make_app
from bridge.config import settings as config
from bridge.config.address import parse_address
from bridge.devtools.mock_gumlet import MockGumlet
from bridge.devtools.simulated_assets import WORKSPACES
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.config.address import Address

API_KEY = "dev"

app = make_app()


@dataclass(frozen=True, slots=True)
class MockServerOptions:
    """`count` assets, an event every `pace` seconds, failed deliveries retried after `retry_interval` seconds."""

    listen: Address
    api_key: str
    seed: int
    count: int
    pace: float
    retry_interval: float


@app.command()
def mock_gumlet(
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the mock API. Port 0: any free port.")
    ] = "127.0.0.1:8090",
    count: Annotated[int, typer.Option(min=1, help="Number of assets to simulate.")] = 20,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events per second.", show_default="no limit")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed simulates the same assets.", show_default="a new one")
    ] = None,
    retry_after: Annotated[
        float, typer.Option(min=0, help="Seconds between retries of a delivery: Gumlet's half hour, scaled.")
    ] = 5.0,
) -> None:
    """Serve a mock of Gumlet: its API, and deliveries to the webhooks created there. Ctrl-C ends.

    Prints the settings with which `gumlet-bridge webhooks`, `reconcile` and `doctor` reach it. Once a webhook is
    created, the events of --count assets are delivered to it; a rejected delivery is retried 47 times and then failed
    for good, as at Gumlet. Keeps everything in memory.

    Example: `gumlet-bridge mock-gumlet --count 20 --rate 5`
    """
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(f"{listen!r} {error}", param_hint="--listen") from error
    key = config.load().gumlet.api_key
    options = MockServerOptions(
        listen=address,
        api_key=key.get_secret_value() if key else API_KEY,
        seed=secrets.randbits(32) if seed is None else seed,
        count=count,
        pace=1 / rate if rate else 0.0,
        retry_interval=retry_after,
    )
    uvloop.run(serve_mock_gumlet(options))


async def serve_mock_gumlet(options: MockServerOptions) -> None:
    """Serve the API, simulate the assets once a webhook exists, and return on SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gumlet = MockGumlet(api_key=options.api_key, seed=options.seed, retry_interval=options.retry_interval)
    runner = web.AppRunner(gumlet.app())
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, options.listen.host, options.listen.port).start()
        except OSError as error:
            raise BridgeError(
                f"--listen: {error.strerror}. Fix: another HOST:PORT; port 0 is any free port."
            ) from error
        sources = " ".join(f"--source {workspace}" for workspace in WORKSPACES)
        host, port = runner.addresses[0][:2]
        typer.echo(
            f"export BRIDGE_GUMLET_API_URL=http://{host}:{port}/v1\n"
            f"export BRIDGE_GUMLET_API_KEY={API_KEY if options.api_key == API_KEY else '...  # as configured'}\n"
            f"gumlet-bridge webhooks create --url http://127.0.0.1:8080/webhooks/gumlet {sources}"
        )
        async with asyncio.TaskGroup() as tasks:
            simulation = tasks.create_task(_simulate(gumlet, options))
            await stop.wait()
            simulation.cancel()
    finally:
        await runner.cleanup()


async def _simulate(gumlet: MockGumlet, options: MockServerOptions) -> None:
    await gumlet.webhook_created.wait()
    await gumlet.run_assets(options.count, options.pace)
    echo(f"All events of {options.count} assets were sent; {gumlet.failed()} deliveries failed. Ctrl-C ends.")
