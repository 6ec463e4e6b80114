"""`gumlet-bridge tail` and `gumlet-bridge assets timeline`: events read from Kafka."""

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
from tests.support.brokers import EMBEDDED_IS_LONG
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import BRIDGE, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.brokers import Broker

FIRST = "5fd088e0a47da8246f1fb756"
SECOND = "6ad088e0a47da8246f1fb700"
LONG_AGO_MS = int(time.time() * 1000) - 3 * 24 * 3_600_000  # within what the topics keep


async def deliver(broker: Broker, prefix: str, received_ms: int, *bodies: Mapping[str, object]) -> None:
    """Publish the events of bodies received one second apart."""
    normalizer = Normalizer(Contract.load(prefix))
    deliveries = [
        Delivery(received_ms + 1000 * number, "default", orjson.dumps(body)) for number, body in enumerate(bodies)
    ]
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await publish(kafka, [(normalizer.event(each), each) for each in deliveries])


@pytest.fixture
async def published(broker: Broker, prefix: str) -> dict[str, object]:
    """Publish the events of two assets, the second an hour ago and with a gap; return the settings."""
    await make_topics(broker, KafkaSettings(bootstrap_servers=broker.bootstrap_servers), prefix)
    states = ("created", "downloaded", "stream_ready", "ready")
    complete = [{"type": f"video.status.{state}", "asset_id": FIRST, "status": state} for state in states]
    await deliver(broker, prefix, LONG_AGO_MS, *complete)
    gap = [
        {"type": "video.status.created", "asset_id": SECOND, "status": "queued", "input": {"size": 7}},
        {"type": "video.status.ready", "asset_id": SECOND, "status": "ready", "input": {"size": 7_000_000}},
    ]
    await deliver(broker, prefix, int(time.time() * 1000) - 3_600_000, *gap)
    return {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}


async def test_tail_filters_by_topic_asset_type_and_time(prefix: str, published: dict[str, object]) -> None:
    """Each filter selects the events that it names; an unknown topic is reported and the others are read."""
    everything = ("tail", "--since", "beginning", "--no-follow")
    ran = await bridge(*everything, **published)
    assert ran.code == 0, ran.err
    assert len(ran.lines) == 6
    for arguments, expected in (
        ((*everything, "video.status.ready"), 2),
        ((*everything, f"{prefix}video.status.ready"), 2),
        ((*everything, "--asset", FIRST), 4),
        ((*everything, "--type", "video.status.created", "--asset", SECOND), 1),
        (("tail", "--since", "2h", "--no-follow"), 2),
        (("tail", "--since", "now", "--no-follow"), 0),
    ):
        assert len((await bridge(*arguments, **published)).lines) == expected, arguments
    misspelt = await bridge(*everything, "video.status.ready", "video.status.raedy", **published)
    assert (misspelt.code, len(misspelt.lines)) == (0, 2)
    assert "not found on Kafka: video.status.raedy." in misspelt.err


@EMBEDDED_IS_LONG
async def test_tail_merges_partitions_by_time(broker: Broker, prefix: str, published: dict[str, object]) -> None:
    """Events of several topics and partitions come in order of time, not partition after partition."""
    base = int(time.time() * 1000) - 1_800_000
    for number in range(12):
        state = ("created", "ready")[number % 2]
        body = {"type": f"video.status.{state}", "asset_id": f"{number:024x}", "status": state}
        await deliver(broker, prefix, base + number * 1000, body)
    ran = await bridge("tail", "--since", "45m", "--no-follow", **published)
    times = [line["received_at"] for line in ran.lines]
    assert len(times) == 12
    assert times == sorted(times)
    assert len({(line["topic"], line["partition"]) for line in ran.lines}) > 2


async def test_tail_follows(broker: Broker, prefix: str, published: dict[str, object]) -> None:
    """Events published while it runs are printed at once; earlier ones are not."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE, "tail", "video.status.deleted", "video.status.created", env=environment(**published),
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )  # fmt: skip
    assert process.stdout is not None
    line = asyncio.create_task(process.stdout.readline())
    try:
        async with asyncio.timeout(60):
            # Its start is not observable: publish another event until one is seen.
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


async def test_timeline_of_an_asset_names_what_is_missing(published: dict[str, object]) -> None:
    """Events come in order; a missing event and an unknown asset end with exit code 1."""
    complete = await bridge("assets", "timeline", FIRST, **published)
    assert complete.code == 0, complete.out + complete.err
    assert [line["type"].rpartition(".")[2] for line in complete.lines] == [
        "created",
        "downloaded",
        "stream_ready",
        "ready",
    ]
    gap = await bridge("assets", "timeline", SECOND, **published)
    assert gap.code == 1
    missing = [line["type"] for line in gap.lines if line["note"] == "missing"]
    assert missing == ["video.status.downloaded", "video.status.stream_ready"]
    unknown = await bridge("assets", "timeline", "0" * 24, **published)
    assert unknown.code == 1
    assert "gumlet-bridge reconcile" in unknown.err
