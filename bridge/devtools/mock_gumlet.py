"""Mock Gumlet: its API, webhook deliveries and retry schedule, with scaled time.

Assets come from `simulated_assets`. The API shows the state of an asset's latest event. A delivery that is not
acknowledged is retried after `retry_interval`, with 48 attempts in all; then it is `failed` in the webhook's history
and not sent again. Retries let deliveries of one asset overtake each other. Undocumented behaviour is modelled
pessimistically: a deleted asset is 404 and in no list.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import web

from bridge.devtools.load_generator import ATTEMPTS, RESPONSE_TIMEOUT_SECONDS
from bridge.devtools.simulated_assets import DELETED, generate_assets
from bridge.webhook import TOKEN_HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from bridge.devtools.simulated_assets import Asset

FIELDS = {"url": str, "sources": list, "triggers": list, "secret_token": str}
"""The properties of a webhook and their JSON types."""


@dataclass(slots=True)
class _Webhook:
    properties: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)

    def wants(self, asset: Asset, event_type: str) -> bool:
        """Return whether an event is sent to this webhook."""
        triggers = self.properties["triggers"]
        return asset.workspace in self.properties["sources"] and ("status" in triggers or event_type in triggers)


class MockGumlet:
    """One account. `retry_interval`: seconds between attempts; `limit`: API requests allowed in `hour` seconds."""

    def __init__(
        self, *, api_key: str, seed: int = 1, retry_interval: float = 1800.0, limit: int = 1000, hour: float = 3600.0
    ) -> None:
        self._api_key = api_key
        self._retry_interval = retry_interval
        self.limit, self._hour = limit, hour
        self.requests: deque[float] = deque()
        """Times of the API requests of the last hour."""
        self._assets_to_come: Iterator[Asset] = generate_assets(seed)
        self.states: dict[str, dict[str, Any]] = {}
        """The latest event of each asset by id, deleted assets included."""
        self.owners: dict[str, str] = {}
        """The workspace of each asset."""
        self.webhook_created = asyncio.Event()
        """Set by the first webhook."""
        self._webhooks: dict[str, _Webhook] = {}

    def app(self) -> web.Application:
        """Return the API, under `/v1`."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/org/webhooks", self._list)
        app.router.add_post("/v1/org/webhooks", self._create)
        app.router.add_post("/v1/org/webhooks/{id}", self._update)
        app.router.add_delete("/v1/org/webhooks/{id}", self._delete)
        app.router.add_get("/v1/org/webhook/{id}/history", self._history)
        app.router.add_get("/v1/video/assets/{id}", self._asset)
        app.router.add_get("/v1/video/workspaces/{id}/list", self._assets)
        return app

    async def run_assets(self, count: int, pace: float = 0.0) -> None:
        """Send the events of `count` assets, one every `pace` seconds; return when every delivery has ended."""
        async with (
            aiohttp.ClientSession(
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                timeout=aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT_SECONDS),
            ) as session,
            asyncio.TaskGroup() as deliveries,
        ):
            for asset in islice(self._assets_to_come, count):
                # Simulated assets have fixed dates; the API's date filters need current ones.
                created_ms = int(time.time() * 1000)
                for _, body in asset.events():
                    state = body | {"created_at": created_ms}
                    self.states[asset.asset_id] = state
                    self.owners[asset.asset_id] = asset.workspace
                    await self._send(session, deliveries, asset, state)
                    await asyncio.sleep(pace)

    def failed(self) -> int:
        """Return the number of deliveries that failed for good."""
        return sum(each["status"] == "failed" for webhook in self._webhooks.values() for each in webhook.history)

    async def _send(
        self, session: aiohttp.ClientSession, deliveries: asyncio.TaskGroup, asset: Asset, state: dict[str, Any]
    ) -> None:
        """Start a delivery to each webhook that wants the event; return after the first attempt of each."""
        first_attempts = []
        for webhook in [each for each in self._webhooks.values() if each.wants(asset, state["type"])]:
            entry = {
                "id": secrets.token_hex(12),
                "status": "retrying",
                "retry_count": 0,
                "event": state["type"],
                "asset_id": asset.asset_id,
                "created_at": _now(),
            }
            webhook.history.append(entry)
            first_attempts.append(asyncio.Event())
            deliveries.create_task(self._deliver(session, webhook, entry, orjson.dumps(state), first_attempts[-1]))
        for attempted in first_attempts:
            await attempted.wait()

    async def _deliver(
        self,
        session: aiohttp.ClientSession,
        webhook: _Webhook,
        entry: dict[str, Any],
        body: bytes,
        attempted: asyncio.Event,
    ) -> None:
        for attempt in range(ATTEMPTS):
            entry["retry_count"] = attempt
            acknowledged = await self._attempt(session, webhook.properties, body)
            attempted.set()
            if acknowledged:
                entry["status"] = "success"
                return
            await asyncio.sleep(self._retry_interval)
        entry["status"] = "failed"

    async def _attempt(self, session: aiohttp.ClientSession, webhook: dict[str, Any], body: bytes) -> bool:
        headers = {"Content-Type": "application/json", TOKEN_HEADER: webhook["secret_token"]}
        try:
            async with session.post(webhook["url"], data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return response.ok
        except (aiohttp.ClientError, OSError):
            return False

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check the API key and the request limit."""
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "unauthorized", "The API key is not valid.")
        now = time.monotonic()
        while self.requests and self.requests[0] <= now - self._hour:
            self.requests.popleft()
        if len(self.requests) >= self.limit:
            rejection = _error(429, "rate_limited", "Too many requests.")
            rejection.headers["Retry-After"] = str(int(self.requests[0] + self._hour - now) + 1)
            return rejection
        self.requests.append(now)
        return await handler(request)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"all_webhooks": [each.properties for each in self._webhooks.values()]})

    async def _create(self, request: web.Request) -> web.Response:
        document = await _json_body(request)
        if invalid := _first_invalid(document, FIELDS):
            return _error(400, "invalid_request", f"{invalid} is missing or invalid.", invalid)
        webhook_id = secrets.token_hex(12)
        properties = {name: document[name] for name in FIELDS}
        properties |= {"id": webhook_id, "created_at": _now(), "updated_at": _now()}
        self._webhooks[webhook_id] = _Webhook(properties)
        self.webhook_created.set()
        return web.json_response(properties)

    async def _update(self, request: web.Request) -> web.Response:
        webhook = self._webhooks.get(request.match_info["id"])
        if webhook is None:
            return _error(404, "not_found", "Webhook not found.")
        document = await _json_body(request)
        changed = [name for name in FIELDS if name in document]
        if invalid := _first_invalid(document, changed):
            return _error(400, "invalid_request", f"{invalid} is invalid.", invalid)
        webhook.properties |= {name: document[name] for name in changed} | {"updated_at": _now()}
        return web.json_response(webhook.properties)

    async def _delete(self, request: web.Request) -> web.Response:
        if self._webhooks.pop(request.match_info["id"], None) is None:
            return _error(404, "not_found", "Webhook not found.")
        return web.json_response({})

    async def _history(self, request: web.Request) -> web.Response:
        webhook = self._webhooks.get(request.match_info["id"])
        if webhook is None:
            return _error(404, "not_found", "Webhook not found.")
        return web.json_response(webhook.history)

    async def _asset(self, request: web.Request) -> web.Response:
        state = self.states.get(request.match_info["id"])
        if state is None or state["type"] == DELETED:
            return _error(404, "not_found", "Asset not found.")
        return web.json_response({name: value for name, value in state.items() if name != "type"})

    async def _assets(self, request: web.Request) -> web.Response:
        workspace = request.match_info["id"]
        mine = [
            {name: state.get(name) for name in ("asset_id", "created_at", "status")} | {"source_id": workspace}
            for asset_id, state in self.states.items()
            if self.owners[asset_id] == workspace and state["type"] != DELETED
        ]
        try:
            offset, size = int(request.query.get("offset", 0)), int(request.query.get("size", 10))
        except ValueError:
            return _error(400, "invalid_request", "offset and size must be numbers.", "offset")
        if not 1 <= size <= 100:  # noqa: PLR2004 - Gumlet's maximum
            return _error(400, "invalid_request", "size must be 1 to 100.", "size")
        page = mine[offset : offset + size]
        return web.json_response(
            {"all_assets": page, "asset_count": len(page), "total_count": len(mine), "current_offset": offset}
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _json_body(request: web.Request) -> dict[str, Any]:
    try:
        document = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _first_invalid(document: dict[str, Any], names: Iterable[str]) -> str | None:
    """Return the first of `names` that is missing, empty or of another type."""
    return next(
        (name for name in names if not isinstance(document.get(name), FIELDS[name]) or not document[name]), None
    )


def _error(status: int, code: str, message: str, param: str | None = None) -> web.Response:
    error = {"code": code, "message": message} | ({} if param is None else {"param": param})
    return web.json_response({"error": error}, status=status)
