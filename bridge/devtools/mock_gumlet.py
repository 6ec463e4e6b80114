"""Gumlet's side whole, to rehearse and test against: its API, its deliveries, and its patience, in scaled time.

Assets are those of `bridge.devtools.simulated_assets`. Each has one state for everybody: what the API says of it is what its latest
event said. A delivery that is refused is tried again after `retry_interval`, 48 times in all; then its day is over, it is
`failed` in the webhook's history, and never comes. Deliveries of an asset overtake one another when some are refused.
What nobody knows of Gumlet is assumed as the tools fear it: a deleted asset is 404, and in no list.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import web

from bridge.devtools.simulated_assets import DELETED, lives
from bridge.webhook import TOKEN_HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bridge.devtools.simulated_assets import Asset

ATTEMPTS = 48
"""How often a delivery is tried: every half hour for a day."""
ANSWER_TIMEOUT_S = 30.0
FIELDS = {"url": str, "sources": list, "triggers": list, "secret_token": str}
"""What a webhook is made of, and of what kind."""


@dataclass(slots=True)
class _Webhook:
    about: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)

    def wants(self, asset: Asset, event_type: str) -> bool:
        """Tell whether an event is for this webhook."""
        triggers = self.about["triggers"]
        return asset.workspace in self.about["sources"] and ("status" in triggers or event_type in triggers)


class SimulatedGumlet:
    """One account. `retry_interval` is seconds between two attempts, `limit` the requests that an `hour` of seconds has."""

    def __init__(
        self, *, api_key: str, seed: int = 1, retry_interval: float = 1800.0, limit: int = 1000, hour: float = 3600.0
    ) -> None:
        self._api_key = api_key
        self._half_hour = retry_interval
        self.limit, self._hour = limit, hour
        self.requests: deque[float] = deque()
        """When each request of the last hour came."""
        self._to_come: Iterator[Asset] = lives(seed)
        self.states: dict[str, dict[str, Any]] = {}
        """The latest event of each asset, by id, also of those that were deleted."""
        self.owners: dict[str, str] = {}
        """The workspace of each asset."""
        self.subscribed = asyncio.Event()
        """Set once there has been a webhook."""
        self._webhooks: dict[str, _Webhook] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

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

    async def live(self, count: int, pace: float = 0.0) -> None:
        """Let `count` assets live, an event each `pace` seconds; return when no delivery is open any more."""
        async with aiohttp.ClientSession(
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
        ) as session:
            for _ in range(count):
                asset = next(self._to_come)
                # Simulated assets are as old as the simulation; these are made now, as the API's dates must say.
                created_ms = int(time.time() * 1000)
                for event_type, body in asset.events():
                    state = body | {"created_at": created_ms}
                    self.states[asset.asset_id] = state
                    self.owners[asset.asset_id] = asset.workspace
                    await self._tell(session, asset, event_type, state)
                    await asyncio.sleep(pace)
            while self._deliveries:
                await asyncio.gather(*self._deliveries)

    def failed(self) -> int:
        """Return how many deliveries were given up."""
        return sum(each["status"] == "failed" for webhook in self._webhooks.values() for each in webhook.history)

    async def _tell(self, session: aiohttp.ClientSession, asset: Asset, event_type: str, state: dict[str, Any]) -> None:
        firsts = []
        for webhook in [each for each in self._webhooks.values() if each.wants(asset, event_type)]:
            entry = {
                "id": secrets.token_hex(12),
                "status": "retrying",
                "retry_count": 0,
                "event": event_type,
                "asset_id": asset.asset_id,
                "created_at": _now(),
            }
            webhook.history.append(entry)
            first = asyncio.Event()
            task = asyncio.create_task(self._deliver(session, webhook, entry, orjson.dumps(state), first))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)
            firsts.append(first.wait())
        await asyncio.gather(*firsts)

    async def _deliver(
        self,
        session: aiohttp.ClientSession,
        webhook: _Webhook,
        entry: dict[str, Any],
        body: bytes,
        first: asyncio.Event,
    ) -> None:
        for attempt in range(ATTEMPTS):
            entry["retry_count"] = attempt
            taken = await self._attempt(session, webhook.about, body)
            first.set()
            if taken:
                entry["status"] = "success"
                return
            await asyncio.sleep(self._half_hour)
        entry["status"] = "failed"

    async def _attempt(self, session: aiohttp.ClientSession, about: dict[str, Any], body: bytes) -> bool:
        headers = {"Content-Type": "application/json", TOKEN_HEADER: about["secret_token"]}
        try:
            async with session.post(about["url"], data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return response.ok
        except (aiohttp.ClientError, OSError):
            return False

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Ask for the key, and count the requests of the hour."""
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "unauthorized", "The API key is not valid.")
        now = time.monotonic()
        while self.requests and self.requests[0] <= now - self._hour:
            self.requests.popleft()
        if len(self.requests) >= self.limit:
            refused = _error(429, "rate_limited", "Too many requests.")
            refused.headers["Retry-After"] = str(int(self.requests[0] + self._hour - now) + 1)
            return refused
        self.requests.append(now)
        return await handler(request)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"all_webhooks": [each.about for each in self._webhooks.values()]})

    async def _create(self, request: web.Request) -> web.Response:
        said = await _json_body(request)
        if wrong := _wrong(said, FIELDS):
            return _error(400, "invalid_request", f"{wrong} is missing or wrong.", wrong)
        identity = secrets.token_hex(12)
        about = {name: said[name] for name in FIELDS} | {"id": identity, "created_at": _now(), "updated_at": _now()}
        self._webhooks[identity] = _Webhook(about)
        self.subscribed.set()
        return web.json_response(about)

    async def _update(self, request: web.Request) -> web.Response:
        webhook = self._webhooks.get(request.match_info["id"])
        if webhook is None:
            return _error(404, "not_found", "Webhook not found.")
        said = await _json_body(request)
        if wrong := _wrong(said, [name for name in FIELDS if name in said]):
            return _error(400, "invalid_request", f"{wrong} is wrong.", wrong)
        webhook.about |= {name: said[name] for name in FIELDS if name in said} | {"updated_at": _now()}
        return web.json_response(webhook.about)

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
            return _error(400, "invalid_request", "offset and size are numbers.", "offset")
        if not 1 <= size <= 100:  # noqa: PLR2004 - Gumlet's largest page
            return _error(400, "invalid_request", "size is 1 to 100.", "size")
        page = mine[offset : offset + size]
        return web.json_response(
            {"all_assets": page, "asset_count": len(page), "total_count": len(mine), "current_offset": offset}
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _json_body(request: web.Request) -> dict[str, Any]:
    try:
        said = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _wrong(said: dict[str, Any], names: Any) -> str | None:
    """Return the first of `names` that is missing or of the wrong kind."""
    return next((name for name in names if not isinstance(said.get(name), FIELDS[name]) or not said[name]), None)


def _error(status: int, code: str, message: str, param: str | None = None) -> web.Response:
    error = {"code": code, "message": message} | ({} if param is None else {"param": param})
    return web.json_response({"error": error}, status=status)
