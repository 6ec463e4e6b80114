"""`gumlet-bridge reconcile` after an outage of more than a day: every final state on Kafka is correct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson

from bridge.config.sections import KafkaSettings
from bridge.contract.converters import rfc3339
from bridge.contract.schemas import Contract
from bridge.devtools import asyncapi
from bridge.devtools.simulated_assets import DELETED, REPACKAGED, TYPES, WORKSPACES
from tests.support.brokers import EMBEDDED_IS_LONG
from tests.support.cli import bridge, make_topics
from tests.support.daemon import TOKEN, Daemon, wait_for
from tests.support.delivery_checker import header, read_all, schema_violations
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from pathlib import Path

    from aiokafka import ConsumerRecord

    from bridge.devtools.mock_gumlet import MockGumlet
    from tests.support.brokers import Broker

BEFORE, DURING, AFTER = 5, 40, 5
"""Assets before, during and after the outage."""
FINAL = TYPES - {"video.status.created", "video.status.downloaded", "video.status.stream_ready"}


def final_states(records: list[ConsumerRecord]) -> dict[str, dict[str, Any]]:
    """Return the latest record of each asset, the state that a consumer ends with."""
    states: dict[str, tuple[int, dict[str, Any]]] = {}
    for record in records:
        value = orjson.loads(record.value)
        asset_id = record.key.decode()
        if asset_id not in states or record.timestamp >= states[asset_id][0]:
            states[asset_id] = (record.timestamp, value)
    return {asset_id: value for asset_id, (_, value) in states.items()}


def wrong_states(simulated: MockGumlet, records: list[ConsumerRecord]) -> list[str]:
    """Return the assets whose state on Kafka differs from Gumlet's."""
    on_kafka = final_states(records)
    wrong = []
    for asset_id, state in simulated.states.items():
        found = on_kafka.get(asset_id, {})
        # A repackaged asset is ready; its output must be the current one.
        same_type = found.get("type") == state["type"] or {found.get("type"), state["type"]} <= {
            "video.status.ready", REPACKAGED,
        }  # fmt: skip
        storage = state.get("output", {}).get("storage_bytes")
        same_size = state["type"] == DELETED or found.get("output", {}).get("storage_bytes") == storage
        if not (same_type and same_size):
            wrong.append(f"{asset_id}: {found.get('type')}, and is {state['type']}")
    return wrong


def wrong_headers(records: list[ConsumerRecord], contract: Contract) -> list[str]:
    """Return violations of the headers that the AsyncAPI document describes."""
    traits = asyncapi.document(contract)["components"]["messageTraits"]["cloudevent"]
    schema = traits["headers"] | {"additionalProperties": False}
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    wrong = []
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        wrong += [error.message for error in validator.iter_errors(headers)]
        if rfc3339(record.timestamp) != headers["ce_time"]:
            wrong.append(f"ce_time is {headers['ce_time']}, and the record's time {rfc3339(record.timestamp)}")
    return wrong


@EMBEDDED_IS_LONG
async def test_reconcile_restores_every_final_state_after_a_long_outage(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Create a webhook, receive, be down for longer than Gumlet retries, reconcile: every final state is correct."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    contract = Contract.load(prefix)
    topics = [topic.name for topic in contract.topics.values()]
    daemon = Daemon(tmp_path, broker.bootstrap_servers, prefix, topics_provision="off")
    async with gumlet(retry_interval=0.01, seed=8) as (simulated, settings):
        settings |= {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix, "tokens": TOKEN}
        with daemon:
            url = f"{daemon.public}/webhooks/gumlet/films"
            sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
            created = await bridge("webhooks", "create", "--url", url, *sources, "--yes", **settings)
            assert created.code == 0, created.err
            await simulated.run_assets(BEFORE)
            wait_for(daemon.drained, what="the deliveries reach Kafka")
            assert daemon.stop() == 0
            await simulated.run_assets(DURING)
            assert simulated.failed()
            daemon.start()
            await simulated.run_assets(AFTER)
            wait_for(daemon.drained, what="the deliveries reach Kafka")
        assert wrong_states(simulated, await read_all(broker.bootstrap_servers, topics))
        before = len(await read_all(broker.bootstrap_servers, topics))

        dry = await bridge("reconcile", "--dry-run", **settings)
        assert dry.code == 0, dry.err
        assert len(await read_all(broker.bootstrap_servers, topics)) == before

        ran = await bridge("reconcile", "--yes", **settings)
        assert ran.code == 0, ran.err
        records = await read_all(broker.bootstrap_servers, topics)
        assert wrong_states(simulated, records) == []
        reconciled = [record for record in records if "ce_origin" in dict(record.headers)]
        published = {line["id"] for line in ran.lines if line["outcome"] == "published"}
        assert len(records) == before + len(reconciled)
        assert {header(record, "ce_id") for record in reconciled} == published
        assert {header(record, "ce_origin") for record in reconciled} == {"reconciliation"}
        assert {header(record, "ce_type").removeprefix("com.gumlet.") for record in reconciled} <= FINAL
        assert {header(record, "ce_source").rpartition("/")[2] for record in reconciled} == {"films"}
        lost = {line["type"] for line in ran.lines if line["outcome"].startswith("unrecoverable")}
        assert "video.status.created" in lost
        assert schema_violations(records, contract) == []
        assert wrong_headers(records, contract) == []

        again = await bridge("reconcile", "--yes", **settings)
        assert again.code == 0, again.err
        assert all(line["outcome"] != "published" for line in again.lines)
        assert len(await read_all(broker.bootstrap_servers, topics)) == len(records)


@EMBEDDED_IS_LONG
async def test_missing_key_webhook_topic_and_kafka_name_the_fix(broker: Broker, prefix: str) -> None:
    """Each missing prerequisite ends the command with the setting or command that fixes it."""
    kafka: dict[str, object] = {"kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix}
    keyless = await bridge("reconcile", **kafka)
    assert keyless.code == 78
    assert "BRIDGE_GUMLET_API_KEY" in keyless.err
    async with gumlet() as (_, settings):
        none = await bridge("reconcile", **(settings | kafka))
        assert none.code == 1
        assert "gumlet-bridge webhooks create" in none.err
        create = ("webhooks", "create", "--url", "https://example.com/webhooks/gumlet", "--source", "a", "--yes")
        assert (await bridge(*create, tokens=TOKEN, **settings)).code == 0
        no_topics = await bridge("reconcile", **(settings | kafka))
        assert no_topics.code == 1
        assert "BRIDGE_TOPICS_PREFIX" in no_topics.err
        away = await bridge("reconcile", **(settings | {"kafka_bootstrap_servers": "127.0.0.1:1"}))
        assert away.code == 1
        assert "127.0.0.1:1 refused the connection" in away.err
