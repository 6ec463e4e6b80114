"""`gumlet-bridge reconcile --state`: interrupted in the middle, it goes on where it stopped, and publishes nothing twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bridge.cli.reconcile import CHUNK
from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.devtools.simulated_assets import WORKSPACES
from bridge.event import Delivery
from tests.support.cli import bridge, make_topics, publish
from tests.support.daemon import BRIDGE, TOKEN, environment
from tests.support.delivery_checker import header, read_all
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from pathlib import Path

    from aiokafka import ConsumerRecord

    from bridge.event import Event
    from tests.support.brokers import Broker

ASSETS = 70
"""More than are published at once, so that there is a middle."""
NOBODY = "http://127.0.0.1:9/webhooks/gumlet/films"
UNTIL_GUMLET_REFUSES = 25
"""How many more requests Gumlet takes after what a first part needs: the run then waits, as it is told to."""


def an_event(prefix: str) -> tuple[Event, Delivery]:
    """Return an event of an asset of its own: with it the embedded broker has a topic."""
    delivery = Delivery(int(time.time() * 1000), "films", b'{"type":"video.status.ready","asset_id":"other"}')
    return Normalizer(Contract.load(prefix)).event(delivery), delivery


async def reconcile_until_it_waits(state: Path, number: int, settings: dict[str, object]) -> int:
    """Run reconcile until Gumlet's hour is used up, interrupt it there, and return its exit code."""
    process = await asyncio.create_subprocess_exec(
        *BRIDGE,
        *("reconcile", "--yes", "--state", str(state)),
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
async def test_goes_on_where_it_stopped(
    broker: Broker, prefix: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """However it ends: what was asked is not asked again, every event comes once, and the state's file goes."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    await publish(kafka, [an_event(prefix)])
    topics = [topic.name for topic in Contract.load(prefix).topics.values()]
    state = tmp_path / "state.json"
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        settings |= {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix, "tokens": TOKEN}
        sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        await bridge("webhooks", "subscribe", "--url", NOBODY, *sources, "--yes", **settings)
        await simulated.live(ASSETS)
        wanted = len((await bridge("reconcile", "--dry-run", **settings)).lines)
        survey = len(WORKSPACES) + 2
        simulated.limit = len(simulated.requests) + survey + CHUNK + UNTIL_GUMLET_REFUSES

        assert await reconcile_until_it_waits(state, number, settings) == code

        kept = orjson.loads(state.read_bytes())
        assert len(kept["rows"]) == CHUNK
        first = await read_all(broker.bootstrap_servers, topics)
        asked_before = len(simulated.requests)
        simulated.limit = 1000
        ran = await bridge("reconcile", "--yes", "--state", str(state), **settings)

        assert ran.code == 0, ran.err
        assert "Going on" in ran.err
        to_make = len(kept["missing"])
        assert len(simulated.requests) - asked_before == 1 + to_make - CHUNK, "the list of webhooks, and what was left"
        assert len(ran.lines) == wanted, "the report is of both parts"
        records = await read_all(broker.bootstrap_servers, topics)
        assert len(first) < len(records)
        assert repeated(records) == []
        made = [record for record in records if "ce_origin" in dict(record.headers)]
        assert {header(record, "ce_id") for record in made} == published(ran.lines)
        assert not state.exists()
        again = await bridge("reconcile", "--yes", "--state", str(state), **settings)
        assert published(again.lines) == set()
        assert len(await read_all(broker.bootstrap_servers, topics)) == len(records)


async def test_what_kafka_has_and_the_state_does_not_is_not_published_again(
    embedded_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Killed between Kafka's confirmation and its own note of it, it asks Kafka: nothing comes twice."""
    await publish(KafkaSettings(bootstrap_servers=embedded_broker.bootstrap_servers), [an_event(prefix)])
    topics = [topic.name for topic in Contract.load(prefix).topics.values()]
    state = tmp_path / "state.json"
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        settings |= {"kafka_bootstrap_servers": embedded_broker.bootstrap_servers, "topics_prefix": prefix}
        sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        await bridge("webhooks", "subscribe", "--url", NOBODY, *sources, "--yes", tokens=TOKEN, **settings)
        await simulated.live(ASSETS)
        simulated.limit = len(simulated.requests) + len(WORKSPACES) + 2 + CHUNK + UNTIL_GUMLET_REFUSES
        await reconcile_until_it_waits(state, signal.SIGKILL, settings)
        state.write_bytes(orjson.dumps(orjson.loads(state.read_bytes()) | {"rows": []}))
        simulated.limit = 1000
        ran = await bridge("reconcile", "--yes", "--state", str(state), **settings)
        assert ran.code == 0, ran.err
        assert "on Kafka since" in {line["outcome"] for line in ran.lines}
        assert repeated(await read_all(embedded_broker.bootstrap_servers, topics)) == []


async def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    """A file that is no state of a reconciliation ends it with what to do, and stays as it is."""
    state = tmp_path / "notes.txt"
    state.write_text("mine")
    async with gumlet() as (_, settings):
        ran = await bridge("reconcile", "--yes", "--state", str(state), **settings)
    assert ran.code == 1
    assert "another --state" in ran.err
    assert state.read_text() == "mine"


def repeated(records: list[ConsumerRecord]) -> list[str]:
    """Return the ids that came more than once."""
    return [event_id for event_id, count in Counter(header(each, "ce_id") for each in records).items() if count > 1]


def published(lines: list[dict[str, Any]]) -> set[str]:
    """Return the ids of what a report says is published."""
    return {line["id"] for line in lines if line["outcome"] == "published"}
