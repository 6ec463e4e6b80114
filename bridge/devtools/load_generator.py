"""Load generator: sends the webhooks of simulated assets with Gumlet's retry behaviour and reports the results.

Used by `gumlet-bridge simulate` and by tests. Invariants: a delivery is attempted until a 2xx response, at most 48
times, as Gumlet does over a day; the deliveries of an asset are sent in order, each after the previous one has ended; a
line of the acknowledgement log is written after the 2xx and before the asset's next delivery. The deliveries depend on
the profile alone, never on the responses.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import aiohttp
import orjson

from bridge.devtools.simulated_assets import generate_assets
from bridge.event import canonical, content_id
from bridge.webhook import DEFAULT_SOURCE, TOKEN_HEADER, source_in_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from yarl import URL

ATTEMPTS = 48
"""Attempts per delivery: Gumlet's one every half hour for a day."""
RESPONSE_TIMEOUT_SECONDS = 30.0
"""Longest wait for a response; Gumlet's own timeout is not documented."""


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """What to send and where.

    `concurrency`: assets at a time. `retry_after`: seconds before a retry. `duplicates`: the share of deliveries to
    send a second time after the acknowledgement, as Gumlet does when it misses the response.
    """

    url: URL
    token: str | None = field(repr=False)
    count: int
    seed: int
    concurrency: int = 64
    retry_after: float = 5.0
    duplicates: float = 0.0

    @property
    def source(self) -> str:
        """The source that the bridge reads from the URL; it is part of every event's id."""
        return source_in_url(self.url) or DEFAULT_SOURCE

    def assets(self) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
        """Yield the id and the events of each asset, `count` events in all; the last asset may be incomplete."""
        left = self.count
        for asset in generate_assets(self.seed):
            events = list(islice(asset.events(), left))
            yield asset.asset_id, events
            left -= len(events)
            if not left:
                return


class LoadReport:
    """Results so far: each completed request was acknowledged, rejected (by status), or failed (no response)."""

    def __init__(self) -> None:
        self.sent = 0
        self.rejected: Counter[int] = Counter()
        self.failed = 0
        self.given_up = 0
        self.duplicates = 0
        self.distinct_ids = 0
        self.latencies = array("d")
        self.max_gap_seconds = 0.0
        self.began = self.ended = self._last = perf_counter()

    @property
    def acknowledged(self) -> int:
        """Number of deliveries with a 2xx response."""
        return len(self.latencies) - self.duplicates

    def acknowledge(self, sent_at: float, now: float) -> None:
        """Count a 2xx response to the request sent at `sent_at`."""
        self.latencies.append(now - sent_at)
        self._update_gap(now)

    def end(self) -> None:
        """Stop the clock; the time since the last acknowledgement counts as a gap."""
        self.ended = perf_counter()
        self._update_gap(self.ended)

    def _update_gap(self, now: float) -> None:
        self.max_gap_seconds = max(self.max_gap_seconds, now - self._last)
        self._last = now

    def report(self, profile: LoadProfile) -> dict[str, Any]:
        """Return the figures that `simulate --json` prints."""
        seconds = self.ended - self.began
        ranked = sorted(self.latencies)
        milliseconds = {
            name: round(ranked[min(int(len(ranked) * part), len(ranked) - 1)] * 1000, 3) if ranked else None
            for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1))
        }
        return {
            "seed": profile.seed,
            "deliveries": profile.count,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "rejected": {str(status): count for status, count in sorted(self.rejected.items())},
            "connection_errors": self.failed,
            "given_up": self.given_up,
            "duplicates": self.duplicates,
            "distinct_ids": self.distinct_ids,
            "unfinished": profile.count - self.acknowledged - self.given_up,
            "seconds": round(seconds, 3),
            "acknowledged_per_second": round(self.acknowledged / seconds, 1) if seconds else 0.0,
            "latency_ms": milliseconds,
            "max_gap_seconds": round(self.max_gap_seconds, 3),
        }


class LoadGenerator:
    """Sends the deliveries of a profile and counts the results in `report`.

    `ack_log` receives a JSON line for each acknowledged delivery: `id` (the event's `ce_id`), `type`, `asset_id`,
    `sequence` (0 for the asset's first). Open it unbuffered, so that it survives the end of this process. `throttle` is
    awaited before each request.
    """

    def __init__(
        self,
        profile: LoadProfile,
        report: LoadReport,
        ack_log: BinaryIO | None = None,
        throttle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._profile = profile
        self._report = report
        self._ack_log = ack_log
        self._throttle = throttle
        self._assets = profile.assets()

    async def run(self) -> None:
        """Send every delivery; return when each is acknowledged or given up."""
        headers = {"Content-Type": "application/json"}
        if self._profile.token:
            headers[TOKEN_HEADER] = self._profile.token
        async with (
            aiohttp.ClientSession(
                headers=headers,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                connector=aiohttp.TCPConnector(limit=0),  # the number of workers is the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT_SECONDS),
            ) as session,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(min(self._profile.concurrency, self._profile.count)):
                workers.create_task(self._work(session))

    async def _work(self, session: aiohttp.ClientSession) -> None:
        for asset_id, events in self._assets:  # shared: each worker takes the next asset
            repeat = Random(f"{self._profile.seed}/{asset_id}")  # noqa: S311 - reproducible on purpose
            acknowledged = set()  # no other asset has an equal body, so these are the ids
            for sequence, (event_type, document) in enumerate(events):
                body = orjson.dumps(document)
                is_acknowledged = await self._deliver(session, body)
                if is_acknowledged and body not in acknowledged:
                    acknowledged.add(body)
                    self._report.distinct_ids += 1
                if is_acknowledged and self._ack_log:
                    event_id = content_id(self._profile.source, canonical(document))
                    line = {"id": event_id, "type": event_type, "asset_id": asset_id, "sequence": sequence}
                    self._ack_log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                if repeat.random() < self._profile.duplicates and await self._attempt(session, body):
                    self._report.duplicates += 1

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        """Attempt a delivery until it is acknowledged; return False when it is given up."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._profile.retry_after)
            if await self._attempt(session, body):
                return True
        self._report.given_up += 1
        return False

    async def _attempt(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        if self._throttle:
            await self._throttle()
        report = self._report
        report.sent += 1
        sent_at = perf_counter()
        try:
            async with session.post(self._profile.url, data=body, allow_redirects=False) as response:
                await response.read()  # an unread body would close the connection
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError
            report.failed += 1
            return False
        if 200 <= response.status < 300:  # noqa: PLR2004 - 2xx
            report.acknowledge(sent_at, perf_counter())
            return True
        report.rejected[response.status] += 1
        return False
