"""The page for people at the admin port's `/`: three files, and one stream of server-sent events that feeds them.

Nothing is fetched from elsewhere and nothing runs inline (the Content-Security-Policy says so). What it shows is in
`snapshot`: figures, the last few events by id, never a body or a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from bridge.config.settings import Settings
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecentActivity

PUSH_INTERVAL_SECONDS = 1.0
MAX_VIEWERS = 20
"""Pages that are fed at one time: watching must not cost deliveries."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_LATENCY_METRICS = {"acknowledge": "bridge_ack_latency_seconds", "publish": "bridge_publish_latency_seconds"}


class Page:
    """Serves the page and its events."""

    def __init__(
        self, settings: Settings, metrics: Metrics, recent: RecentActivity, status: Callable[[], dict[str, Any]]
    ) -> None:
        """`status` tells what `/status` does."""
        self._settings = settings
        self._metrics = metrics
        self._recent = recent
        self._status = status
        self._viewers = 0
        self._closing = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the page, its files and its events."""
        return [*(web.get(path, self._file) for path in _FILES), web.get("/events", self._events)]

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    async def _file(self, request: web.Request) -> web.Response:
        name, content_type = _FILES[request.path]
        body = files("bridge.admin").joinpath("static", name).read_bytes()
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= MAX_VIEWERS:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{MAX_VIEWERS} pages are open already\n")
        self._viewers += 1
        try:
            response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
            await response.prepare(request)
            configuration = orjson.dumps(self._settings.model_dump(mode="json"))
            await response.write(b"event: configuration\ndata: " + configuration + b"\n\n")
            while not self._closing.is_set():
                await response.write(b"data: " + orjson.dumps(self.snapshot()) + b"\n\n")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), PUSH_INTERVAL_SECONDS)
            return response
        finally:
            self._viewers -= 1

    def snapshot(self) -> dict[str, Any]:
        """Return all that the page shows now."""
        samples = [sample for family in self._metrics.registry.collect() for sample in family.samples]
        answers = [each for each in samples if each.name == "bridge_http_requests_total"]
        topics = {
            each.labels["topic"]: each.value for each in samples if each.name == "bridge_kafka_records_published_total"
        }
        plain = {each.name: each.value for each in samples if not each.labels}
        return {
            "uptime": time.monotonic(),
            "status": self._status(),
            "totals": {
                "deliveries": sum(each.value for each in answers),
                "acknowledged": sum(each.value for each in answers if each.labels["status"] == "200"),
                "published": sum(topics.values()),
            },
            "timers": {
                key: {end: plain.get(f"{name}_{end}", 0.0) for end in ("sum", "count")}
                for key, name in _LATENCY_METRICS.items()
            },
            "topics": topics,
            "recent": self._recent.snapshot(),
        }
