"""`gumlet-bridge tail` and `gumlet-bridge assets show`: what is on Kafka, found again."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import orjson
import pytest

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import BRIDGE, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.brokers import Broker

FIRST = "5fd088e0a47da8246f1fb756"
SECOND = "6ad088e0a47da8246f1fb700"
LONG_AGO_MS = int(time.time() * 1000) - 3 * 24 * 3_600_000  # within what the topics keep


async def deliver(broker: Broker, prefix: str, received_ms: int, *bodies: Mapping[str, object]) -> None:
    """Publish what the bridge makes of bodies that were received a second apart."""
    normalizer = Normalizer(Contract.load(prefix))
    deliveries = [
        Delivery(received_ms + 1000 * number, "default", orjson.dumps(body)) for number, body in enumerate(bodies)
    ]
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await publish(kafka, [(normalizer.event(each), each) for each in deliveries])


@pytest.fixture
async def published(broker: Broker, prefix: str) -> dict[str, object]:
    """Publish two assets' events, the second's an hour ago and without its middle; return the settings."""
    await make_topics(broker, KafkaSettings(bootstrap_servers=broker.bootstrap_servers), prefix)
    states = ("created", "downloaded", "stream_ready", "ready")
    life = [{"type": f"video.status.{state}", "asset_id": FIRST, "status": state} for state in states]
    await deliver(broker, prefix, LONG_AGO_MS, *life)
    gap = [
        {"type": "video.status.created", "asset_id": SECOND, "status": "queued", "input": {"size": 7}},
        {"type": "video.status.ready", "asset_id": SECOND, "status": "ready", "input": {"size": 7_000_000}},
    ]
    await deliver(broker, prefix, int(time.time() * 1000) - 3_600_000, *gap)
    return {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}


async def test_filters(prefix: str, published: dict[str, object]) -> None:
    """Topics, asset, type, path and time each choose what they say."""
    everything = ("tail", "--from", "beginning", "--no-follow")
    ran = await bridge(*everything, **published)
    assert ran.code == 0, ran.err
    assert len(ran.lines) == 6
    for arguments, expected in (
        ((*everything, "video.status.ready"), 2),
        ((*everything, f"{prefix}video.status.ready"), 2),
        ((*everything, "--asset", FIRST), 4),
        ((*everything, "--type", "video.status.created", "--asset", SECOND), 1),
        (("tail", "--from", "2h", "--no-follow"), 2),
        (("tail", "--from", "now", "--no-follow"), 0),
    ):
        assert len((await bridge(*arguments, **published)).lines) == expected, arguments
    sizes = await bridge(*everything, "--path", "input.size_bytes", **published)
    assert sorted(sizes.out.split()) == ["7", "7000000"]
    large = await bridge(*everything, "--path", "input.size_bytes > `1000` && asset_id", **published)
    assert large.out.split() == [f'"{SECOND}"']
    misspelt = await bridge(*everything, "video.status.ready", "video.status.raedy", **published)
    assert (misspelt.code, len(misspelt.lines)) == (0, 2)
    assert "does not have video.status.raedy." in misspelt.err
    wrong = await bridge(*everything, "--path", "input[", **published)
    assert wrong.code == 2
    assert "JMESPath" in wrong.err


async def test_follow(broker: Broker, prefix: str, published: dict[str, object]) -> None:
    """What is published while it runs is printed, a line at once; what was there before is not."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE, "tail", "video.status.deleted", "video.status.created", env=environment(**published),
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )  # fmt: skip
    assert process.stdout is not None
    line = asyncio.create_task(process.stdout.readline())
    try:
        async with asyncio.timeout(60):
            # Until it has begun nobody can know: publish anew, each another event, until one is seen.
            for progress in range(1000):
                body = {"type": "video.status.created", "asset_id": FIRST, "status": "queued", "progress": progress}
                await deliver(broker, prefix, int(time.time() * 1000), body)
                if (await asyncio.wait([line], timeout=1))[0]:
                    break
        seen = orjson.loads(await line)
        assert seen["event"]["progress_percent"] >= 0
        assert seen["asset_id"] == FIRST
    finally:
        process.kill()
        await process.wait()


async def test_the_story_of_an_asset(published: dict[str, object]) -> None:
    """An asset's events come in order, what is missing is named and ends with 1, an unknown asset fails."""
    whole = await bridge("assets", "show", FIRST, **published)
    assert whole.code == 0, whole.out + whole.err
    assert [line["type"].rpartition(".")[2] for line in whole.lines] == [
        "created",
        "downloaded",
        "stream_ready",
        "ready",
    ]
    gap = await bridge("assets", "show", SECOND, **published)
    assert gap.code == 1
    missing = [line["type"] for line in gap.lines if line["note"] == "missing"]
    assert missing == ["video.status.downloaded", "video.status.stream_ready"]
    unknown = await bridge("assets", "show", "0" * 24, **published)
    assert unknown.code == 1
    assert "gumlet-bridge reconcile" in unknown.err
