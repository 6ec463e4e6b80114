"""Client of the parts of Gumlet's API that the commands use. The daemon never calls it.

Invariants: this process sends at most Gumlet's limit of requests an hour, and waits as long as `Retry-After` asks after
a 429. Reads are retried when Gumlet fails; changes are not, because they may have taken effect. Every failure is a
BridgeError that names the fix. Secrets are `SecretStr` and appear in no message.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from pydantic import SecretStr

from bridge.errors import BridgeError, ConfigError
from bridge.operations.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bridge.config.sections import GumletSettings

REQUESTS_PER_HOUR = 1000
TIMEOUT_S = 30.0
ATTEMPTS = 5
"""Attempts before a failure is reported."""
PAGE = 100
"""Assets per page: Gumlet's maximum."""
LONGEST_WAIT_S = 3600.0
"""Longest wait for one `Retry-After`: Gumlet counts requests by the hour."""
PAUSE_S = 1.0
"""First pause before a retry; doubled each time."""

_ADVICE = {
    401: "Gumlet does not accept the API key. Fix: BRIDGE_GUMLET_API_KEY, from Gumlet's dashboard.",
    403: "This API key lacks the permission. Fix: the key of an account that has it.",
    404: "Gumlet has no such object. Fix: an id from `gumlet-bridge webhooks list`, or from Gumlet's dashboard.",
}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of the account. `sources` are workspace ids."""

    id: str
    url: str
    sources: tuple[str, ...]
    triggers: tuple[str, ...]
    token: SecretStr | None

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Webhook:
        """Read a webhook of the API; missing properties are empty."""
        token = document.get("secret_token")
        return cls(
            id=str(document.get("id", "")),
            url=str(document.get("url") or ""),
            sources=tuple(map(str, document.get("sources") or ())),
            triggers=tuple(map(str, document.get("triggers") or ())),
            token=SecretStr(token) if token else None,
        )


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """An entry of a webhook's history: `status` is success, retrying or failed."""

    id: str
    status: str
    retries: int
    event: str
    asset_id: str
    created_at: str

    @property
    def created_ms(self) -> int:
        """Time of the event in milliseconds since 1970; 0 when Gumlet's value is not a date."""
        try:
            return int(datetime.fromisoformat(self.created_at).timestamp() * 1000)
        except ValueError:
            return 0


class GumletApi:
    """The API calls; created by `gumlet_api`."""

    def __init__(self, session: aiohttp.ClientSession, base: str, report: Callable[[str], None]) -> None:
        self._session = session
        self._base = base.rstrip("/")
        self._report = report
        self._limiter = RateLimiter(
            REQUESTS_PER_HOUR,
            3600,
            lambda wait: report(f"Waiting {wait:.0f} s: Gumlet allows {REQUESTS_PER_HOUR} requests an hour."),
        )
        self.clock_skew_seconds: float | None = None
        """How far this machine's clock was ahead of Gumlet's at the latest response; None: unknown."""

    async def webhooks(self) -> list[Webhook]:
        """Return every webhook of the account."""
        response = await self._call("GET", "/org/webhooks")
        return [Webhook.from_json(each) for each in _items(response, "all_webhooks")]

    async def create_webhook(self, url: str, sources: list[str], triggers: list[str], token: SecretStr) -> Webhook:
        """Create a webhook."""
        body = {"url": url, "sources": sources, "triggers": triggers, "secret_token": token.get_secret_value()}
        return Webhook.from_json(await self._call("POST", "/org/webhooks", body))

    async def update_webhook(self, webhook_id: str, changes: dict[str, Any]) -> Webhook:
        """Change any of url, sources, triggers, secret_token."""
        return Webhook.from_json(await self._call("POST", f"/org/webhooks/{webhook_id}", changes))

    async def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook."""
        await self._call("DELETE", f"/org/webhooks/{webhook_id}")

    async def history(self, webhook_id: str) -> list[DeliveryAttempt]:
        """Return the outcome of a webhook's deliveries, as far back as Gumlet keeps it."""
        response = await self._call("GET", f"/org/webhook/{webhook_id}/history")
        return [
            DeliveryAttempt(
                id=str(each.get("id", "")),
                status=str(each.get("status", "")),
                retries=int(each.get("retry_count") or 0),
                event=str(each.get("event", "")),
                asset_id=str(each.get("asset_id", "")),
                created_at=str(each.get("created_at", "")),
            )
            for each in _items(response, "history")
        ]

    async def asset(self, asset_id: str) -> dict[str, Any] | None:
        """Return the current state of an asset; None when it does not exist (any more)."""
        found = await self._call("GET", f"/video/assets/{asset_id}", absent=None)
        return found if isinstance(found, dict) else None

    async def assets(self, workspace: str, since_ms: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the list entries of a workspace's assets created on the day of `since_ms` or later."""
        since = datetime.fromtimestamp(since_ms / 1000, UTC).date()
        offset = 0
        while True:
            query = f"?offset={offset}&size={PAGE}&start_date={since}&sortBy=created_at&orderBy=asc&type=videos"
            page = _items(await self._call("GET", f"/video/workspaces/{workspace}/list{query}"), "all_assets")
            for each in page:
                yield each
            if len(page) < PAGE:
                return
            offset += len(page)

    async def _call(self, method: str, path: str, body: Any = None, **absent: Any) -> Any:
        """Send one request, with retries where they are safe; return its JSON. `absent`: the value for a 404."""
        for attempt in range(ATTEMPTS):
            await self._limiter.acquire()
            last = attempt == ATTEMPTS - 1 or method != "GET"
            try:
                async with self._session.request(
                    method,
                    self._base + path,
                    data=None if body is None else orjson.dumps(body),
                    headers={"Content-Type": "application/json"} if body is not None else None,
                    allow_redirects=False,  # the key is for this host only
                ) as response:
                    content = await response.read()
                    if (skew := _clock_skew(response.headers.get("Date"))) is not None:
                        self.clock_skew_seconds = skew
            except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
                if last:
                    raise BridgeError(
                        f"No response from Gumlet's API at {self._base}: {error or type(error).__name__}. "
                        "Fix: BRIDGE_GUMLET_API_URL, the network, or a proxy in between."
                    ) from error
            else:
                if response.status == 429 and attempt < ATTEMPTS - 1:  # noqa: PLR2004 - too many requests
                    wait = min(_retry_after(response.headers.get("Retry-After")), LONGEST_WAIT_S)
                    self._report(f"Waiting {wait:.0f} s as Gumlet asks: too many requests in this hour.")
                    await asyncio.sleep(wait)
                    continue
                if absent and response.status == 404:  # noqa: PLR2004 - not found
                    return absent["absent"]
                if response.status < 400:  # noqa: PLR2004 - success
                    return _json(content)
                if response.status < 500 or last:  # noqa: PLR2004 - a failure of Gumlet
                    raise BridgeError(_format_error(method, path, response.status, content))
            await asyncio.sleep(PAUSE_S * 2.0**attempt)
        raise AssertionError


@asynccontextmanager
async def gumlet_api(settings: GumletSettings, report: Callable[[str], None]) -> AsyncIterator[GumletApi]:
    """Open Gumlet's API for the length of the block; `report` is called with the reason of a wait.

    Raises ConfigError without an API key.
    """
    if settings.api_key is None:
        raise ConfigError(
            "Gumlet's API key is not configured. Fix: BRIDGE_GUMLET_API_KEY (from Gumlet's dashboard), or api_key "
            "under [gumlet] in the --config file."
        )
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {settings.api_key.get_secret_value()}"},
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield GumletApi(session, settings.api_url, report)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise BridgeError("Gumlet's API returned invalid JSON. Fix: BRIDGE_GUMLET_API_URL.") from error


def _items(response: Any, name: str) -> list[dict[str, Any]]:
    """Return the list of a response, which is the response itself or its property `name`."""
    items = response.get(name) if isinstance(response, dict) else response
    return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; a minute for anything else."""
    try:
        return max(0.0, float(value or ""))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value or "")
    except ValueError:
        return 60.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _clock_skew(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None


def _format_error(method: str, path: str, status: int, content: bytes) -> str:
    try:
        error = orjson.loads(content)["error"]
        message = ": ".join(str(error[name]) for name in ("code", "message", "param") if error.get(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        message = ""
    advice = _ADVICE.get(status, "Gumlet's API failed: try again later." if status >= 500 else "")  # noqa: PLR2004
    return f"{method} {path.partition('?')[0]}: {status}. {advice}{f' Gumlet: {message}' if message else ''}".strip()
