"""The Python consumer's table is Gumlet's truth after an outage and a reconciliation, and can be rebuilt."""

from __future__ import annotations

from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from bridge.config.sections import KafkaSettings
from bridge.contract.schemas import Contract
from bridge.devtools.simulated_assets import READY, REPACKAGED, WORKSPACES
from tests.support.cli import bridge, make_topics
from tests.support.consumer_builds import python_command
from tests.support.consumers import Program, assets, query
from tests.support.daemon import TOKEN, Daemon, wait_for
from tests.support.delivery_checker import header, read_all
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiokafka import ConsumerRecord

    from tests.support.brokers import Broker

pytestmark = pytest.mark.long

BEFORE, DURING, AFTER = 10, 40, 10
"""Assets before, during and after the outage."""
PACE = 0.003
"""Seconds between events: their times of receipt, in milliseconds, differ."""


class State(NamedTuple):
    """What Gumlet and the table must agree on."""

    type: str
    storage_bytes: int | None


def state(event: dict[str, Any]) -> State:
    """Return the state that an event leads to: a repackaged asset is ready, and a deleted one has no output."""
    storage = event.get("output", {}).get("storage_bytes")
    return State(READY if event["type"] == REPACKAGED else event["type"], storage)


def table(database: Path) -> dict[str, State]:
    """Return the states in the table by the ids of the assets."""
    return {asset_id: state(orjson.loads(text)) for asset_id, text in query(database, "SELECT id, record FROM asset")}


async def publish_disordered(servers: str, records: list[ConsumerRecord], prefix: str, new_prefix: str) -> None:
    """Publish the records twice under another prefix, in random order."""
    copies = [*records, *records]
    Random(5).shuffle(copies)
    async with AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True) as producer:
        for record in copies:
            topic = new_prefix + record.topic.removeprefix(prefix)
            await producer.send(topic, record.value, record.key, headers=list(record.headers))


@contextmanager
def consumer(broker: Broker, database: Path, prefix: str) -> Iterator[Program]:
    """Run a consumer and stop it."""
    with Program(python_command(), broker.bootstrap_servers, database, prefix) as program:
        yield program
        program.stop()


async def test_table_equals_gumlets_state_after_an_outage_and_a_reconciliation(
    apache_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Also when it is rebuilt from the topics, and from the same records in random order with duplicates."""
    servers = apache_kafka.bootstrap_servers
    kafka = KafkaSettings(bootstrap_servers=servers)
    await make_topics(apache_kafka, kafka, prefix)
    topics = [topic.name for topic in Contract.load(prefix).topics.values() if topic.event_type.startswith("video.")]
    daemon = Daemon(tmp_path, servers, prefix, topics_provision="off")
    live, rebuilt, disordered = (tmp_path / f"{name}.sqlite" for name in ("live", "rebuilt", "disordered"))
    async with gumlet(retry_interval=0.01, seed=8) as (simulated, settings):
        settings |= {"kafka_bootstrap_servers": servers, "topics_prefix": prefix, "tokens": TOKEN}
        with daemon, consumer(apache_kafka, live, prefix) as program:
            url = f"{daemon.public}/webhooks/gumlet/films"
            sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
            created = await bridge("webhooks", "create", "--url", url, *sources, "--yes", **settings)
            assert created.code == 0, created.err
            await simulated.run_assets(BEFORE, PACE)
            wait_for(daemon.drained, what="the deliveries reach Kafka")
            assert daemon.stop() == 0
            await simulated.run_assets(DURING, PACE)
            assert simulated.failed()
            daemon.start()
            await simulated.run_assets(AFTER, PACE)
            wait_for(daemon.drained, what="the deliveries reach Kafka")
            reconciled = await bridge("reconcile", "--yes", **settings)
            assert reconciled.code == 0, reconciled.err
            records = await read_all(servers, topics)
            ids = {header(record, "ce_id") for record in records}
            program.wait_until_handled(len(ids))
        truth = {asset_id: state(event) for asset_id, event in simulated.states.items()}
    assert len({event_type for event_type, _ in truth.values()}) > 2
    assert table(live) == truth
    with consumer(apache_kafka, rebuilt, prefix) as program:
        program.wait_until_handled(len(ids))
    assert assets(rebuilt) == assets(live)
    other_prefix = f"other-{prefix}"
    await make_topics(apache_kafka, kafka, other_prefix)
    await publish_disordered(servers, records, prefix, other_prefix)
    with consumer(apache_kafka, disordered, other_prefix) as program:
        program.wait_until_handled(len(ids))
    # Equal `repackaged` share an id: which of their times of receipt the row has depends on the order.
    assert table(disordered) == truth
