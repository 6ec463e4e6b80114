"""`gumlet-bridge simulate --api`: Gumlet's side whole, served until Ctrl-C, for rehearsals without an account."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from aiohttp import web

from bridge.devtools.mock_gumlet import SimulatedGumlet
from bridge.devtools.simulated_assets import WORKSPACES
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.config.address import Address

API_KEY = "dev"


@dataclass(frozen=True, slots=True)
class MockServerOptions:
    """What to simulate: so many assets, an event each `pace` seconds, tried again after `retry_interval` seconds."""

    listen: Address
    api_key: str
    seed: int
    count: int
    pace: float
    retry_interval: float


async def rehearse(rehearsal: MockServerOptions) -> None:
    """Serve the API; let assets live as soon as somebody has subscribed; go on until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gumlet = SimulatedGumlet(api_key=rehearsal.api_key, seed=rehearsal.seed, retry_interval=rehearsal.retry_interval)
    runner = web.AppRunner(gumlet.app())
    await runner.setup()
    living: asyncio.Task[None] | None = None
    try:
        try:
            await web.TCPSite(runner, rehearsal.listen.host, rehearsal.listen.port).start()
        except OSError as error:
            raise BridgeError(f"--api: {error.strerror}. Fix: another HOST:PORT; port 0 is any free one.") from error
        sources = " ".join(f"--source {workspace}" for workspace in WORKSPACES)
        host, port = runner.addresses[0][:2]
        typer.echo(
            f"export BRIDGE_GUMLET_API_URL=http://{host}:{port}/v1\n"
            f"export BRIDGE_GUMLET_API_KEY={API_KEY if rehearsal.api_key == API_KEY else '...  # as configured'}\n"
            f"gumlet-bridge webhooks subscribe --url http://127.0.0.1:8080/webhooks/gumlet {sources}"
        )
        living = asyncio.create_task(_live(gumlet, rehearsal))
        await stop.wait()
    finally:
        if living is not None:
            living.cancel()
        await runner.cleanup()


async def _live(gumlet: SimulatedGumlet, rehearsal: MockServerOptions) -> None:
    await gumlet.subscribed.wait()
    await gumlet.live(rehearsal.count, rehearsal.pace)
    failed = gumlet.failed()
    typer.echo(f"{rehearsal.count} assets have lived; {failed} deliveries failed. Ctrl-C ends.", err=True)
