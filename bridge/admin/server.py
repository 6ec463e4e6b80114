"""The admin port: health, metrics, status and the page, for operators and orchestrators. Never open it to the internet.

Routes: /livez (the process answers), /readyz (a delivery would be accepted), /metrics, /status, /drift, and the page
at /. Requests for an unexpected host name get 421 (see `host_check`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from bridge.admin.dashboard import Page
from bridge.admin.host_check import host_check
from bridge.admin.status import Status
from bridge.config.address import format_url
from bridge.config.settings import Settings
from bridge.errors import BridgeError
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecentActivity


class Admin:
    """Serves what the daemon reports about itself."""

    def __init__(
        self, settings: Settings, status: Status, metrics: Metrics, health: Health, recent: RecentActivity
    ) -> None:
        self._settings = settings
        self._status = status
        self._metrics = metrics
        self._health = health
        self._page = Page(settings, metrics, recent, status)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve while the block runs; yield the URL. Raises BridgeError when the address is not available."""
        host, port = self._settings.admin_address
        names = {name.lower().rstrip(".") for name in (host, *self._settings.admin_allowed_hosts)}
        app = web.Application(middlewares=[host_check(frozenset(names))])
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._render_metrics),
                web.get("/status", self._render_status),
                web.get("/drift", self._render_drift),
                *self._page.routes(),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise BridgeError(
                    f"cannot listen on {self._settings.admin_listen}: {error.strerror}. "
                    "Fix: set BRIDGE_ADMIN_LISTEN to a free address."
                ) from error
            async with asyncio.TaskGroup() as tasks:
                sampler = tasks.create_task(self._status.sample_until_cancelled(), name="sample status")
                try:
                    yield format_url(runner.addresses[0])
                finally:
                    sampler.cancel()
        finally:
            self._page.close()
            await runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready means that a delivery would be accepted, not that Kafka is reachable; problems are listed below it."""
        rejection = self._status.not_ready_reason()
        first = "ready" if rejection is None else f"not ready: {rejection.reason}: {rejection}"
        lines = [first, *map(str, self._health.problems())]
        return web.Response(status=200 if rejection is None else 503, text="\n".join(lines) + "\n")

    async def _render_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _render_drift(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._status.drift()), content_type="application/json")

    async def _render_status(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._status.to_json()), content_type="application/json")
