"""`gumlet-bridge reconcile`, interrupted and run again: it publishes nothing twice and misses nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from bridge.cli.reconcile import CHUNK
from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.devtools.simulated_assets import WORKSPACES
from bridge.event import Delivery
from tests.support.brokers import EMBEDDED_IS_LONG
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import BRIDGE, TOKEN, environment
from tests.support.delivery_checker import header, read_all
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from bridge.event import Event
    from tests.support.brokers import Broker

ASSETS = 70
"""More than one chunk, so that there is a middle to interrupt."""
CLOSED_PORT = "http://127.0.0.1:9/webhooks/gumlet/films"
EXTRA_REQUESTS = 25
"""API requests allowed beyond the first chunk; then the run waits for Gumlet's limit, and is interrupted there."""


def other_event(prefix: str) -> tuple[Event, Delivery]:
    """Return an event of an unrelated asset: publishing it creates a topic on the embedded broker."""
    delivery = Delivery(int(time.time() * 1000), "films", b'{"type":"video.status.ready","asset_id":"other"}')
    return Normalizer(Contract.load(prefix)).event(delivery), delivery


async def interrupt_reconcile(number: int, settings: dict[str, object]) -> int:
    """Run reconcile until it waits for Gumlet's request limit, interrupt it there, and return its exit code."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE,
        *("reconcile", "--yes"),
        env=environment(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(120):
            while b"as Gumlet asks" not in (line := await process.stderr.readline()):
                assert line, "it ended without an interruption"
            process.send_signal(number)
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@EMBEDDED_IS_LONG
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
async def test_second_run_completes_an_interrupted_one(
    broker: Broker, prefix: str, number: signal.Signals, code: int
) -> None:
    """However the first run ends, the second publishes exactly the rest."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    await publish(kafka, [other_event(prefix)])
    topics = [topic.name for topic in Contract.load(prefix).topics.values()]
    async with gumlet(retry_interval=0.001) as (mock, settings):
        settings |= {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix, "tokens": TOKEN}
        sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        await bridge("webhooks", "create", "--url", CLOSED_PORT, *sources, "--yes", **settings)
        await mock.run_assets(ASSETS)
        planned = await bridge("reconcile", "--dry-run", **settings)
        wanted = {line["id"] for line in planned.lines if line["outcome"] == "would be published"}
        mock.limit = len(mock.requests) + len(WORKSPACES) + 2 + CHUNK + EXTRA_REQUESTS

        assert await interrupt_reconcile(number, settings) == code
        before = len(await read_all(broker.bootstrap_servers, topics))
        mock.limit = 1000
        ran = await bridge("reconcile", "--yes", **settings)

        assert ran.code == 0, ran.err
        records = await read_all(broker.bootstrap_servers, topics)
        assert 1 < before < len(records)
        ids = Counter(header(each, "ce_id") for each in records if "ce_origin" in dict(each.headers))
        assert max(ids.values()) == 1
        published = {line["id"] for line in ran.lines if line["outcome"] == "published"}
        assert published < set(ids) <= wanted
        assert all(line["outcome"].startswith("unrecoverable") for line in ran.lines if line["outcome"] != "published")
