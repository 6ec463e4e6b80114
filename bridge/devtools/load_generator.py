"""A sender of webhooks that behaves as Gumlet does, for `gumlet-bridge simulate` and for tests.

Promises: every delivery is tried until it is answered 2xx, or 48 times, as Gumlet does over a day; an asset's
deliveries follow one another, one that is refused holding up those behind it; what is written as acknowledged
was answered 2xx, each line before the asset's next delivery is sent. What is sent depends on seed and count
alone, never on the answers.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import aiohttp
import orjson

from bridge.devtools.simulated_assets import lives
from bridge.event import canonical, content_id
from bridge.webhook import DEFAULT_SOURCE, TOKEN_HEADER, source_in_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yarl import URL

ATTEMPTS = 48
"""How often Gumlet tries a delivery: every half hour for a day."""
ANSWER_TIMEOUT_S = 30.0
"""How long to wait for an answer; Gumlet's own patience is not known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where and how.

    `rate` is in requests a second (None: no limit), `retry_after` in seconds.
    """

    url: URL
    token: str | None = field(repr=False)
    count: int
    seed: int
    rate: float | None = None
    concurrency: int = 64
    retry_after: float = 5.0

    @property
    def source(self) -> str:
        """The source in the URL, as the bridge will read it: part of every event's id."""
        return source_in_url(self.url) or DEFAULT_SOURCE

    def assets(self) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
        """Yield each asset's id and its events, `count` of these in all: the last life may be cut short."""
        left = self.count
        for asset in lives(self.seed):
            events = list(islice(asset.events(), left))
            yield asset.asset_id, events
            left -= len(events)
            if not left:
                return


class LoadReport:
    """What became of the deliveries so far.

    Every request that has ended is one of acknowledged, refused (by status) and failed (no answer).
    """

    def __init__(self) -> None:
        self.sent = 0
        self.refused: Counter[int] = Counter()
        self.failed = 0
        self.given_up = 0
        self.latencies = array("d")
        self.max_gap_seconds = 0.0
        self.began = self.ended = self._last = perf_counter()

    @property
    def acknowledged(self) -> int:
        """How many deliveries were answered 2xx."""
        return len(self.latencies)

    def acknowledge(self, sent_at: float, now: float) -> None:
        """Count a 2xx to the request sent at `sent_at`."""
        self.latencies.append(now - sent_at)
        self._silence(now)

    def end(self) -> None:
        """Stop the clock: the time since the last acknowledgement is a silence too."""
        self.ended = perf_counter()
        self._silence(self.ended)

    def _silence(self, now: float) -> None:
        self.max_gap_seconds = max(self.max_gap_seconds, now - self._last)
        self._last = now

    def report(self, plan: Plan) -> dict[str, Any]:
        """Return the figures, as `--json` prints them."""
        seconds = self.ended - self.began
        ranked = sorted(self.latencies)
        milliseconds = {
            name: round(ranked[min(int(len(ranked) * part), len(ranked) - 1)] * 1000, 3) if ranked else None
            for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1))
        }
        return {
            "seed": plan.seed,
            "deliveries": plan.count,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "refused": {str(status): times for status, times in sorted(self.refused.items())},
            "connection_errors": self.failed,
            "given_up": self.given_up,
            "unfinished": plan.count - self.acknowledged - self.given_up,
            "seconds": round(seconds, 3),
            "acknowledged_per_second": round(self.acknowledged / seconds, 1) if seconds else 0.0,
            "latency_ms": milliseconds,
            "longest_silence_seconds": round(self.max_gap_seconds, 3),
        }


class Pace:
    """Hands out turns evenly, `rate` a second; time lost to a slow receiver is not made up for by a burst."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = perf_counter()
        due = max(self._next, now)
        self._next = due + self._interval
        await asyncio.sleep(due - now)


class Sender:
    """Sends what a plan says, counting in `tally`.

    `acknowledged` gets a JSON line for each delivery that was: `id` (the event's `ce_id`), `type`,
    `asset_id`, `sequence` (0 for the asset's first). Unbuffered, it survives the end of this process.
    """

    def __init__(self, plan: Plan, tally: LoadReport, acknowledged: BinaryIO | None = None) -> None:
        self._plan = plan
        self._tally = tally
        self._acknowledged = acknowledged
        self._pace = Pace(plan.rate) if plan.rate else None
        self._assets = plan.assets()

    async def run(self) -> None:
        """Send everything; return when each delivery is acknowledged or given up."""
        headers = {"Content-Type": "application/json"}
        if self._plan.token:
            headers[TOKEN_HEADER] = self._plan.token
        async with (
            aiohttp.ClientSession(
                headers=headers,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                connector=aiohttp.TCPConnector(limit=0),  # the number of workers is the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
            ) as session,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(min(self._plan.concurrency, self._plan.count)):
                workers.create_task(self._work(session))

    async def _work(self, session: aiohttp.ClientSession) -> None:
        for asset_id, events in self._assets:  # shared: each worker takes the next asset that nobody has
            for sequence, (event_type, document) in enumerate(events):
                if await self._deliver(session, orjson.dumps(document)) and self._acknowledged:
                    event_id = content_id(self._plan.source, canonical(document))
                    line = {"id": event_id, "type": event_type, "asset_id": asset_id, "sequence": sequence}
                    self._acknowledged.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        """Try until it is acknowledged; return False when it is given up."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._plan.retry_after)
            if self._pace:
                await self._pace.turn()
            if await self._attempt(session, body):
                return True
        self._tally.given_up += 1
        return False

    async def _attempt(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        tally = self._tally
        tally.sent += 1
        sent_at = perf_counter()
        try:
            async with session.post(self._plan.url, data=body, allow_redirects=False) as response:
                await response.read()  # what is not read to its end closes the connection
        except (aiohttp.ClientError, OSError):  # a time-out is an OSError
            tally.failed += 1
            return False
        if 200 <= response.status < 300:  # noqa: PLR2004 - 2xx
            tally.acknowledge(sent_at, perf_counter())
            return True
        tally.refused[response.status] += 1
        return False
