"""Gumlet's API, as much of it as the tools use. The daemon never calls it.

Promises: no more requests than Gumlet takes in an hour, counting this process's own; a 429 is waited out for as long
as `Retry-After` says; what only reads is tried again when Gumlet fails, what changes something is not, because it may
have been done. Every failure is a BridgeError in plain words. Secrets are `SecretStr`, and in no message.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from pydantic import SecretStr

from bridge.errors import BridgeError, ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bridge.config.sections import GumletSettings

REQUESTS_PER_HOUR = 1000
TIMEOUT_S = 30.0
ATTEMPTS = 5
"""How often a request is sent before its failure is told."""
PAGE = 100
"""Assets in one answer: the most that Gumlet gives."""
LONGEST_WAIT_S = 3600.0
"""Longest that is waited for one Retry-After: Gumlet counts by the hour."""
PAUSE_S = 1.0
"""First pause before trying again what Gumlet failed at; doubled each time."""

_ADVICE = {
    401: "Gumlet does not accept the API key. Fix: BRIDGE_GUMLET_API_KEY, from Gumlet's dashboard.",
    403: "This API key may not do that. Fix: a key of an account with that right.",
    404: "Gumlet does not know it. Fix: take the id from `gumlet-bridge webhooks list`, or from Gumlet's dashboard.",
}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as Gumlet has it. `sources` are workspace ids."""

    id: str
    url: str
    sources: tuple[str, ...]
    triggers: tuple[str, ...]
    token: SecretStr | None

    @classmethod
    def of(cls, said: dict[str, Any]) -> Webhook:
        """Read what Gumlet answers; what is missing is empty."""
        token = said.get("secret_token")
        return cls(
            id=str(said.get("id", "")),
            url=str(said.get("url") or ""),
            sources=tuple(map(str, said.get("sources") or ())),
            triggers=tuple(map(str, said.get("triggers") or ())),
            token=SecretStr(token) if token else None,
        )


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """A line of a webhook's history: `status` is success, retrying or failed; `created_ms` since 1970, or 0."""

    id: str
    status: str
    retries: int
    event: str
    asset_id: str
    created_at: str

    @property
    def created_ms(self) -> int:
        """When the event was, as Gumlet says; 0 when it is no date."""
        try:
            return int(datetime.fromisoformat(self.created_at).timestamp() * 1000)
        except ValueError:
            return 0


class RateLimiter:
    """So many turns in any stretch of `seconds`; who comes too soon waits."""

    def __init__(self, turns: int, seconds: float, tell: Callable[[str], None]) -> None:
        self._turns, self._seconds, self._tell = turns, seconds, tell
        self._taken: deque[float] = deque()

    async def turn(self) -> None:
        """Wait until a turn is free, and take it."""
        while len(self._taken) >= self._turns:
            wait = self._taken[0] + self._seconds - time.monotonic()
            if wait <= 0:
                self._taken.popleft()
            else:
                self._tell(f"Waiting {wait:.0f} s: {self._turns} requests an hour are what Gumlet takes.")
                await asyncio.sleep(wait)
        self._taken.append(time.monotonic())


class GumletApi:
    """The calls; made by `gumlet_api`."""

    def __init__(self, session: aiohttp.ClientSession, base: str, tell: Callable[[str], None]) -> None:
        self._session = session
        self._base = base.rstrip("/")
        self._tell = tell
        self._allowance = RateLimiter(REQUESTS_PER_HOUR, 3600, tell)
        self.clock_skew_seconds: float | None = None
        """By how much this machine's clock was ahead of Gumlet's at the latest answer; None: not known."""

    async def webhooks(self) -> list[Webhook]:
        """Return every webhook of the account."""
        answer = await self._call("GET", "/org/webhooks")
        return [Webhook.of(each) for each in _items(answer, "all_webhooks")]

    async def create_webhook(self, url: str, sources: list[str], triggers: list[str], token: SecretStr) -> Webhook:
        """Make a webhook."""
        said = {"url": url, "sources": sources, "triggers": triggers, "secret_token": token.get_secret_value()}
        return Webhook.of(await self._call("POST", "/org/webhooks", said))

    async def update_webhook(self, identity: str, changes: dict[str, Any]) -> Webhook:
        """Change what `changes` names: url, sources, triggers, secret_token."""
        return Webhook.of(await self._call("POST", f"/org/webhooks/{identity}", changes))

    async def delete_webhook(self, identity: str) -> None:
        """Remove a webhook."""
        await self._call("DELETE", f"/org/webhooks/{identity}")

    async def history(self, identity: str) -> list[DeliveryAttempt]:
        """Return what became of a webhook's deliveries, as far back as Gumlet says."""
        answer = await self._call("GET", f"/org/webhook/{identity}/history")
        return [
            DeliveryAttempt(
                id=str(each.get("id", "")),
                status=str(each.get("status", "")),
                retries=int(each.get("retry_count") or 0),
                event=str(each.get("event", "")),
                asset_id=str(each.get("asset_id", "")),
                created_at=str(each.get("created_at", "")),
            )
            for each in _items(answer, "history")
        ]

    async def asset(self, asset_id: str) -> dict[str, Any] | None:
        """Return an asset as it is now; None when there is none (any more)."""
        found = await self._call("GET", f"/video/assets/{asset_id}", absent=None)
        return found if isinstance(found, dict) else None

    async def assets(self, workspace: str, since_ms: int) -> AsyncIterator[dict[str, Any]]:
        """Yield a workspace's assets, in short: those created on the day of `since_ms` or later."""
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
        """Send one request, again where that is safe; return its JSON. `absent`: what a 404 means."""
        for attempt in range(ATTEMPTS):
            await self._allowance.turn()
            last = attempt == ATTEMPTS - 1 or method != "GET"
            try:
                async with self._session.request(
                    method,
                    self._base + path,
                    data=None if body is None else orjson.dumps(body),
                    headers={"Content-Type": "application/json"} if body is not None else None,
                    allow_redirects=False,  # the key is for nobody else
                ) as response:
                    content = await response.read()
                    if (ahead := _clock_skew(response.headers.get("Date"))) is not None:
                        self.clock_skew_seconds = ahead
            except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError
                if last:
                    raise BridgeError(
                        f"Gumlet's API at {self._base} does not answer: {error or type(error).__name__}. "
                        "Fix: BRIDGE_GUMLET_API_URL, the network, a proxy in between."
                    ) from error
            else:
                if response.status == 429 and attempt < ATTEMPTS - 1:  # noqa: PLR2004 - too many requests
                    wait = min(_retry_after(response.headers.get("Retry-After")), LONGEST_WAIT_S)
                    self._tell(f"Waiting {wait:.0f} s, as Gumlet asks: too many requests in this hour.")
                    await asyncio.sleep(wait)
                    continue
                if absent and response.status == 404:  # noqa: PLR2004 - not found
                    return absent["absent"]
                if response.status < 400:  # noqa: PLR2004 - done
                    return _json(content)
                if response.status < 500 or last:  # noqa: PLR2004 - Gumlet's own failure
                    raise BridgeError(_format_error(method, path, response.status, content))
            await asyncio.sleep(PAUSE_S * 2.0**attempt)
        raise AssertionError


@asynccontextmanager
async def gumlet_api(settings: GumletSettings, tell: Callable[[str], None]) -> AsyncIterator[GumletApi]:
    """Open Gumlet's API for the length of the block; `tell` hears why something waits. Raises ConfigError."""
    if settings.api_key is None:
        raise ConfigError(
            "This needs Gumlet's API. Fix: BRIDGE_GUMLET_API_KEY, from Gumlet's dashboard, or api_key under "
            "[gumlet] in the file that --config names."
        )
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {settings.api_key.get_secret_value()}"},
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield GumletApi(session, settings.api_url, tell)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise BridgeError("Gumlet's API answered what is no JSON. Fix: BRIDGE_GUMLET_API_URL.") from error


def _items(answer: Any, name: str) -> list[dict[str, Any]]:
    """Return the list in an answer, whether it is the answer or under a name."""
    items = answer.get(name) if isinstance(answer, dict) else answer
    return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []


def _retry_after(value: str | None) -> float:
    """Read Retry-After: seconds, or a date; a minute when it says neither."""
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
        said = ": ".join(str(error[name]) for name in ("code", "message", "param") if error.get(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        said = ""
    advice = _ADVICE.get(status, "Gumlet fails: try again later." if status >= 500 else "")  # noqa: PLR2004
    return f"{method} {path.partition('?')[0]}: {status}. {advice}{f' Gumlet says: {said}' if said else ''}".strip()
