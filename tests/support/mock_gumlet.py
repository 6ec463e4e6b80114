"""A mock of Gumlet on a free port, and the settings with which the commands reach it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from bridge.devtools.mock_gumlet import MockGumlet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

API_KEY = "an-api-key-of-the-tests"


@asynccontextmanager
async def gumlet(**options: Any) -> AsyncIterator[tuple[MockGumlet, dict[str, object]]]:
    """Serve the API of a mock of Gumlet; yield it and the settings of its API."""
    simulated = MockGumlet(api_key=API_KEY, **options)
    runner = web.AppRunner(simulated.app())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield simulated, {"gumlet_api_key": API_KEY, "gumlet_api_url": url}
    finally:
        await runner.cleanup()
