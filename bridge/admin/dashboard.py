"""The page for operators at the admin port's `/`: three static files, and one stream of server-sent events.

Nothing is loaded from elsewhere and nothing runs inline; the Content-Security-Policy enforces both. `snapshot` holds
what the page shows: conditions, figures, the last events by id; never a body or a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from bridge.admin.status import Status
from bridge.config.settings import Settings
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecentActivity

PUSH_INTERVAL_SECONDS = 1.0
MAX_VIEWERS = 20
"""Pages that are fed at the same time: watching must not slow deliveries down."""
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


class Page:
    """Serves the page and the stream that feeds it."""

    def __init__(self, settings: Settings, metrics: Metrics, recent: RecentActivity, status: Status) -> None:
        self._settings = settings
        self._metrics = metrics
        self._recent = recent
        self._status = status
        self._viewers = 0
        self._closing = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the page, its files and its stream."""
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
            text = f"{MAX_VIEWERS} pages are open already. Fix: close one.\n"
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=text)
        self._viewers += 1
        try:
            response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(_event("configuration", self._settings.model_dump(mode="json")))
            await response.write(_event("history", [point._asdict() for point in self._status.history.points]))
            while not self._closing.is_set():
                await response.write(_event("message", self.snapshot()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), PUSH_INTERVAL_SECONDS)
            return response
        finally:
            self._viewers -= 1

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the page shows now."""
        points = self._status.history.points
        return {
            "status": self._status.to_json(),
            "current": self._status.history.current(),
            "point": points[-1]._asdict() if points else None,
            "topics": self._metrics.totals().topics,
            "recent": self._recent.snapshot(),
        }


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
