"""Topics made, checked and changed on Apache Kafka; the embedded broker has no admin API."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import capture_logs
from typer.testing import CliRunner

from bridge.cli.topics import app
from bridge.config.sections import KafkaSettings, TopicsSettings
from bridge.config.settings import Settings
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError, TopicMismatchError
from bridge.kafka.client import admin_client
from bridge.kafka.provision import provision
from bridge.kafka.topics import Finding, apply, survey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.brokers import Broker

CONFIG = {"cleanup.policy": "delete", "retention.ms": "86400000"}


def contract_of(prefix: str, partitions: int | None = 3) -> Contract:
    """Return a contract of two topics; the rest of a Topic plays no part here."""
    topics: dict[str, Any] = {
        name: SimpleNamespace(name=prefix + name, partitions=partitions, config=CONFIG)
        for name in ("video.status.ready", "dead-letter")
    }
    return Contract(topics)


def settings_for(broker: Broker, mode: str = "create", **topics: Any) -> Settings:
    """Return settings that reach the broker."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=broker.bootstrap_servers),
        topics=TopicsSettings(provision=mode, **topics),
    )


@pytest.fixture
async def admin(apache_kafka: Broker) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect as an administrator who is not the bridge."""
    async with admin_client(settings_for(apache_kafka).kafka) as client:
        yield client


async def make(admin: AIOKafkaAdminClient, name: str, partitions: int, config: dict[str, str]) -> None:
    """Make a topic as somebody else would."""
    response = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
    assert response.topic_errors[0][1] == 0
    while name not in await admin.list_topics():  # noqa: ASYNC110 - brokers hear of it after the controller
        await asyncio.sleep(0.05)


def told(findings: list[Finding]) -> set[tuple[str, str]]:
    """Return what was found, of which topic."""
    return {(finding.topic, finding.subject) for finding in findings}


async def test_create_makes_what_is_missing(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """`create` makes each topic with the contract's partitions and configuration: nothing differs then."""
    contract, settings = contract_of(prefix), settings_for(apache_kafka)
    findings = await survey(admin, contract, settings.topics)
    assert {finding.kind for finding in findings} == {"missing"}
    await provision(settings, contract)
    assert await survey(admin, contract, settings.topics) == []
    (topic,) = await admin.describe_topics([prefix + "dead-letter"])
    assert len(topic["partitions"]) == 3


async def test_looking_makes_nothing(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """A survey leaves a missing topic missing."""
    await survey(admin, contract_of(prefix), settings_for(apache_kafka).topics)
    assert not {name for name in await admin.list_topics() if name.startswith(prefix)}


async def test_settings_win(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """The settings' partitions and replication take the place of the contract's."""
    settings = settings_for(apache_kafka, partitions=5, replication_factor=1)
    await provision(settings, contract_of(prefix))
    (topic,) = await admin.describe_topics([prefix + "dead-letter"])
    assert len(topic["partitions"]) == 5


async def test_broker_decides(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """Where neither says how many partitions, the broker's default is taken."""
    contract, settings = contract_of(prefix, partitions=None), settings_for(apache_kafka)
    await provision(settings, contract)
    assert await survey(admin, contract, settings.topics) == []


async def test_replicas_that_start_together(apache_kafka: Broker, prefix: str) -> None:
    """Several may provision at once: who comes second is content with what the first made."""
    contract, settings = contract_of(prefix), settings_for(apache_kafka)
    with capture_logs() as logs:
        await asyncio.gather(*(provision(settings, contract) for _ in range(4)))
    assert {entry["event"] for entry in logs} == {"topics_created"}


async def test_create_changes_nothing_that_exists(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A topic that differs stays as it is; each difference is a warning with its fix."""
    await make(admin, prefix + "dead-letter", 1, {"retention.ms": "5000"})
    contract, settings = contract_of(prefix), settings_for(apache_kafka)
    with capture_logs() as logs:
        await provision(settings, contract)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert {(entry["topic"], entry["subject"]) for entry in warnings} == {
        (prefix + "dead-letter", "partitions"),
        (prefix + "dead-letter", "retention.ms"),
    }
    assert all(entry["fix"] for entry in warnings)
    assert told(await survey(admin, contract, settings.topics)) == {
        (prefix + "dead-letter", "partitions"),
        (prefix + "dead-letter", "retention.ms"),
    }


async def test_verify_names_each_difference(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """`verify` raises with a line for each difference, and makes nothing."""
    await make(admin, prefix + "dead-letter", 7, {"cleanup.policy": "compact"})
    contract = contract_of(prefix)
    with pytest.raises(TopicMismatchError) as error:
        await provision(settings_for(apache_kafka, "verify", replication_factor=2), contract)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for words in (
        "video.status.ready: topic is missing",
        "dead-letter: partitions is 7, not 3. Fix: Kafka cannot take partitions away",
        "dead-letter: replication factor is 1, not 2",
        "dead-letter: cleanup.policy is compact, not delete",
        "dead-letter: retention.ms is 604800000, not 86400000",
    ):
        assert any(prefix + words in line for line in lines), words
    assert prefix + "video.status.ready" not in await admin.list_topics()


async def test_verify_is_content(apache_kafka: Broker, prefix: str) -> None:
    """`verify` says nothing when all is as the contract wants it."""
    contract = contract_of(prefix)
    await provision(settings_for(apache_kafka), contract)
    await provision(settings_for(apache_kafka, "verify"), contract)


async def test_off_asks_nothing(prefix: str) -> None:
    """`off` never talks to Kafka."""
    nowhere = SimpleNamespace(bootstrap_servers="127.0.0.1:1")
    await provision(settings_for(nowhere, "off"), contract_of(prefix))  # type: ignore[arg-type]


async def test_refusal_of_one_topic(apache_kafka: Broker, prefix: str) -> None:
    """What Kafka does not make is a warning with Kafka's reason and a fix; the daemon goes on."""
    with capture_logs() as logs:
        await provision(settings_for(apache_kafka, replication_factor=3), contract_of(prefix))
    assert [entry["event"] for entry in logs] == ["topic_create_rejected", "topic_create_rejected"]
    assert "BRIDGE_TOPICS_REPLICATION_FACTOR" in logs[0]["fix"]


async def test_apply_configures_and_keeps_the_rest(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Setting an entry keeps the entries that somebody else has set on the topic."""
    for name in ("video.status.ready", "dead-letter"):
        await make(admin, prefix + name, 3, {"retention.ms": "5000", "max.message.bytes": "2000000"})
    contract, settings = contract_of(prefix), settings_for(apache_kafka)
    findings = await survey(admin, contract, settings.topics)
    assert {finding.kind for finding in findings} == {"config"}
    assert await apply(admin, contract, settings.topics, findings) == []
    assert await survey(admin, contract, settings.topics) == []
    theirs: Any = SimpleNamespace(
        topics={
            "x": SimpleNamespace(name=prefix + "dead-letter", partitions=3, config={"max.message.bytes": "2000000"})
        }
    )
    assert await survey(admin, theirs, settings.topics) == []


async def test_apply_grows(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """Partitions are added when that finding is applied; too many are passed over."""
    await make(admin, prefix + "video.status.ready", 1, CONFIG)
    await make(admin, prefix + "dead-letter", 4, CONFIG)
    contract, settings = contract_of(prefix), settings_for(apache_kafka)
    findings = await survey(admin, contract, settings.topics)
    assert await apply(admin, contract, settings.topics, findings) == []
    assert told(await survey(admin, contract, settings.topics)) == {(prefix + "dead-letter", "partitions")}


def bridge(*words: str, **environment: str) -> Any:
    """Run `gumlet-bridge topics` as a user would, with these settings."""
    return CliRunner().invoke(app, words, env={"COLUMNS": "200", **environment})


@pytest.fixture
def environment(apache_kafka: Broker, prefix: str) -> dict[str, str]:
    """Point the command at the broker, on topics of this test alone."""
    return {
        "BRIDGE_KAFKA_BOOTSTRAP_SERVERS": apache_kafka.bootstrap_servers,
        "BRIDGE_TOPICS_PREFIX": prefix,
        "BRIDGE_TOPICS_PARTITIONS": "2",
    }


def test_list_needs_no_kafka(prefix: str) -> None:
    """`list` names each topic of the contract, wherever Kafka is."""
    result = bridge("list", BRIDGE_TOPICS_PREFIX=prefix, BRIDGE_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert result.exit_code == 0
    for topic in Contract.load(prefix).topics.values():
        assert topic.name in result.stdout


def test_check_apply_check(environment: dict[str, str], prefix: str) -> None:
    """`check` fails while topics are missing, `apply` makes them, `check` is content then."""
    missing = bridge("check", **environment)
    assert missing.exit_code == 1
    assert f"{prefix}dead-letter" in missing.stdout
    assert bridge("apply", "--yes", **environment).exit_code == 0
    assert bridge("check", **environment).exit_code == 0
    assert "Nothing to change" in bridge("apply", **environment).stdout


@pytest.mark.parametrize(("options", "answer"), [(["--dry-run"], None), ([], "n\n")])
def test_apply_asks(environment: dict[str, str], options: list[str], answer: str | None) -> None:
    """Nothing is made by a dry run, nor when the answer is no; what would be is shown."""
    result = CliRunner().invoke(app, ["apply", *options], input=answer, env={"COLUMNS": "200", **environment})
    assert "dead-letter" in result.stdout
    assert bridge("check", **environment).exit_code == 1


def test_apply_changes_only_what_it_is_told(environment: dict[str, str]) -> None:
    """Partitions grow with `--grow` alone, and the moving of keys is said."""
    assert bridge("apply", "--yes", **environment).exit_code == 0
    more = {**environment, "BRIDGE_TOPICS_PARTITIONS": "3"}
    left = bridge("apply", "--yes", **more)
    assert "stays as it is" in left.stdout
    assert bridge("check", **more).exit_code == 1
    grown = bridge("apply", "--yes", "--grow", **more)
    assert "More partitions move keys" in grown.stdout
    assert bridge("check", **more).exit_code == 0


def test_kafka_away(prefix: str) -> None:
    """A Kafka that does not answer is told in a sentence with what to look at."""
    result = bridge("check", BRIDGE_TOPICS_PREFIX=prefix, BRIDGE_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert isinstance(result.exception, BridgeError)
    assert "Kafka at 127.0.0.1:1: " in str(result.exception)
    assert "BRIDGE_KAFKA_BOOTSTRAP_SERVERS" in str(result.exception)
