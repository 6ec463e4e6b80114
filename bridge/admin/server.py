"""The admin port: health, metrics and status, for the machine and its keepers. Never on the public port."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from bridge.admin.capacity import Forecast
from bridge.admin.dashboard import Page
from bridge.config.address import format_url
from bridge.config.settings import Settings
from bridge.contract.drift import Drift
from bridge.errors import BridgeError, DeliveryRejected
from bridge.queue.interface import DeliveryQueue
from bridge.telemetry.collectors import Reading
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecentActivity


class Admin:
    """What the daemon tells of itself."""

    def __init__(  # noqa: PLR0913 - one for each part that it shows
        self,
        settings: Settings,
        backlog: DeliveryQueue,
        metrics: Metrics,
        *,
        recent: RecentActivity,
        connected: Callable[[], bool],
        drift: Drift,
    ) -> None:
        """Take `connected`, which tells whether Kafka answered when it was last asked."""
        self._drift = drift
        self._settings = settings
        self._backlog = backlog
        self._metrics = metrics
        self._recent = recent
        metrics.register_gauges(
            Reading(
                "bridge_parked_deliveries", "Deliveries parked on disk because their topic is blocked.", ("topic",)
            ),
            lambda: [((topic,), count) for topic, count in backlog.parked.items()],
        )
        self._connected = connected
        self._started = time.time()
        metrics.register_gauge("bridge_journal_depth", "Deliveries not yet on Kafka.", lambda: backlog.depth)
        metrics.register_gauge("bridge_journal_pending_bytes", "Bytes that they take.", lambda: backlog.size_bytes)
        metrics.register_gauge(
            "bridge_journal_oldest_pending_age_seconds", "Age of the oldest of them that flows.", self._oldest_age
        )
        self._forecast = forecast = Forecast(settings.journal)
        if settings.ack == "journal":
            metrics.register_gauge(
                "bridge_journal_capacity_bytes", "Bytes that may wait.", lambda: settings.journal.max_bytes
            )
            metrics.register_gauge(
                "bridge_journal_free_bytes", "Bytes free on the journal's disk.", forecast.free_bytes
            )
            metrics.register_gauge(
                "bridge_journal_time_to_full_seconds",
                "When the journal is full at the rate of the last minute; +Inf while it does not fill.",
                forecast.seconds_until_full,
            )
        metrics.register_gauge(
            "bridge_ready", "1 when a delivery can be made durable.", lambda: self._not_ready_reason() is None
        )

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve while the block runs; yields the URL. Raises BridgeError when the address cannot be had."""
        page = Page(self._settings, self._metrics, self._recent, self.status)
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._render_metrics),
                web.get("/status", self._render_status),
                web.get("/drift", self._render_drift),
                *page.routes(),
            ]
        )
        host, port = self._settings.admin_address
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        sampler = asyncio.create_task(self._sample(), name="sample")
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise BridgeError(
                    f"cannot listen on {self._settings.admin_listen}: {error.strerror}. "
                    "Fix: set BRIDGE_ADMIN_LISTEN to a free address."
                ) from error
            yield format_url(runner.addresses[0])
        finally:
            sampler.cancel()
            page.close()
            await runner.cleanup()

    async def _sample(self) -> None:
        """Look at the journal's size every second, so that its rate is known whoever asks, and however often."""
        while True:
            self._forecast.sample(time.monotonic(), self._backlog.size_bytes)
            await asyncio.sleep(1)

    def _not_ready_reason(self) -> DeliveryRejected | None:
        """Why a delivery would be refused now: without a journal, Kafka must answer for one to be safe."""
        if self._settings.ack == "kafka" and not self._connected():
            return DeliveryRejected("kafka_unreachable", "Kafka does not answer")
        return self._backlog.check_capacity(self._settings.max_body_bytes)

    def _oldest_age(self) -> float:
        received_ms = self._backlog.oldest_pending_ms
        return 0.0 if received_ms is None else max(0.0, time.time() - received_ms / 1000)

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready means that a delivery can be made durable, not that Kafka is up."""
        refusal = self._not_ready_reason()
        if refusal is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {refusal.reason}: {refusal}\n")

    async def _render_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _render_drift(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._drift.report()), content_type="application/json")

    async def _render_status(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.status()), content_type="application/json")

    def status(self) -> dict[str, Any]:
        """Return what `/status` tells."""
        refusal = self._not_ready_reason()
        until_full = self._forecast.seconds_until_full()
        return {
            "version": version("gumlet-kafka-bridge"),
            "uptime_seconds": round(time.time() - self._started, 3),
            "ready": refusal is None,
            "not_ready_reason": None if refusal is None else refusal.reason,
            "ack": self._settings.ack,
            "kafka": {
                "connected": self._connected(),
                "bootstrap_servers": self._settings.kafka.bootstrap_servers,
            },
            "journal": {
                "deliveries": self._backlog.depth,
                "bytes": self._backlog.size_bytes,
                "max_bytes": self._settings.journal.max_bytes,
                "oldest_age_seconds": round(self._oldest_age(), 3),
                "parked": self._backlog.parked,
                "time_to_full_seconds": None if math.isinf(until_full) else round(until_full),
            },
        }
