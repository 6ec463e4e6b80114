"""`gumlet-bridge topics`: list, check and apply, as a user runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from bridge.cli.topics import app
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.kafka.wire_format import encode_id_prefix
from tests.support.brokers.apache import free_port

if TYPE_CHECKING:
    from tests.support.brokers import Broker


def topics(*arguments: str, **environment: str) -> Any:
    """Run `gumlet-bridge topics` with these settings."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})


@pytest.fixture
def environment(apache_kafka: Broker, prefix: str) -> dict[str, str]:
    """Point the command at the broker, on topics of this test alone."""
    return {
        "BRIDGE_KAFKA_BOOTSTRAP_SERVERS": apache_kafka.bootstrap_servers,
        "BRIDGE_TOPICS_PREFIX": prefix,
        "BRIDGE_TOPICS_PARTITIONS": "2",
    }


def test_list_needs_no_kafka(prefix: str) -> None:
    """`list` names each topic of the contract."""
    result = topics("list", BRIDGE_TOPICS_PREFIX=prefix, BRIDGE_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert result.exit_code == 0
    for topic in Contract.load(prefix).topics.values():
        assert f'"topic":"{topic.name}"' in result.stdout


def test_check_fails_until_apply_created_the_topics(environment: dict[str, str], prefix: str) -> None:
    """`check` exits with 1 while topics are missing, and with 0 after `apply`."""
    missing = topics("check", **environment)
    assert missing.exit_code == 1
    assert f"{prefix}dead-letter" in missing.stdout
    assert topics("apply", "--yes", **environment).exit_code == 0
    assert topics("check", **environment).exit_code == 0
    assert "Nothing to change" in topics("apply", **environment).stderr


@pytest.mark.parametrize(("options", "answer"), [(["--dry-run"], None), ([], "n\n")])
def test_apply_changes_nothing_without_consent(
    environment: dict[str, str], options: list[str], answer: str | None
) -> None:
    """A dry run and the answer no show the changes and apply none."""
    result = CliRunner().invoke(app, ["apply", *options], input=answer, env={"COLUMNS": "200", **environment})
    assert "dead-letter" in result.stdout
    assert topics("check", **environment).exit_code == 1


def test_apply_adds_partitions_only_with_its_option(environment: dict[str, str]) -> None:
    """Without `--add-partitions` they are not changed; with it, the consequence for keys is shown."""
    assert topics("apply", "--yes", **environment).exit_code == 0
    more = {**environment, "BRIDGE_TOPICS_PARTITIONS": "3"}
    unchanged = topics("apply", "--yes", **more)
    assert "Nothing to change" in unchanged.stderr
    assert "--add-partitions" in unchanged.stdout
    assert topics("check", **more).exit_code == 1
    added = topics("apply", "--yes", "--add-partitions", **more)
    assert "Adding partitions assigns keys" in added.stderr
    assert topics("check", **more).exit_code == 0


async def test_check_warns_of_a_topic_with_two_wire_formats(
    apache_kafka: Broker, environment: dict[str, str], prefix: str
) -> None:
    """A plain record before a record with a schema id is reported with its topic; one format alone is not."""
    assert (await asyncio.to_thread(topics, "apply", "--yes", **environment)).exit_code == 0
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap_servers)
    await producer.start()
    try:
        for name in ("video.status.ready", "video.status.created"):
            await producer.send_and_wait(prefix + name, b"{}", partition=0)
        await producer.send_and_wait(prefix + "video.status.ready", encode_id_prefix(7) + b"{}", partition=0)
    finally:
        await producer.stop()
    result = await asyncio.to_thread(topics, "check", **environment)
    assert f"{prefix}video.status.ready has records in the wire formats confluent and plain" in result.stderr
    assert "video.status.created" not in result.stderr


def test_a_kafka_without_a_listener_is_named_with_its_address(prefix: str) -> None:
    """A refused connection is one sentence with the address, the cause and the fix."""
    address = f"127.0.0.1:{free_port()}"
    result = topics("check", BRIDGE_TOPICS_PREFIX=prefix, BRIDGE_KAFKA_BOOTSTRAP_SERVERS=address)
    assert isinstance(result.exception, BridgeError)
    assert f"{address} refused the connection" in str(result.exception)
    assert "Fix: start Kafka" in str(result.exception)
