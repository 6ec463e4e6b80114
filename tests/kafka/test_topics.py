"""Topics created, compared and changed on Apache Kafka; the embedded broker creates topics only."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]  # re-exported without declaring it
from structlog.testing import capture_logs

from bridge.config.sections import KafkaSettings, TopicsSettings
from bridge.config.settings import Settings
from bridge.contract.schemas import Contract
from bridge.kafka.connection import kafka_client
from bridge.kafka.provisioning import ChangeRejected, TopicProvisioner, apply_changes
from bridge.kafka.topics import TopicDifference, TopicSurvey, diff_topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.brokers import Broker
    from tests.support.brokers.guarded import GuardedKafka

CONFIG = {"cleanup.policy": "delete", "retention.ms": "86400000"}


def contract_of(prefix: str, partitions: int | None = 3) -> Contract:
    """Return a contract of two topics; the rest of a Topic plays no part here."""
    topics: dict[str, Any] = {
        name: SimpleNamespace(name=prefix + name, partitions=partitions, config=CONFIG)
        for name in ("video.status.ready", "dead-letter")
    }
    return Contract(topics)


def settings_for(bootstrap_servers: str, mode: str = "create", **topics: Any) -> Settings:
    """Return settings that reach the broker."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=bootstrap_servers), topics=TopicsSettings(provision=mode, **topics)
    )


async def ensure(settings: Settings, contract: Contract) -> TopicSurvey:
    """Check the topics as a daemon that has just started."""
    return await TopicProvisioner(settings, contract).ensure_topics()


async def diff(settings: Settings, contract: Contract) -> list[TopicDifference]:
    """Return every difference."""
    async with kafka_client(settings.kafka) as client:
        return (await diff_topics(client, contract, settings)).differences


async def apply(settings: Settings, contract: Contract, differences: Iterable[TopicDifference]) -> list[ChangeRejected]:
    """Apply differences."""
    async with kafka_client(settings.kafka) as client:
        return await apply_changes(client, contract, settings, differences)


@pytest.fixture
async def admin(apache_kafka: Broker) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect as an administrator who is not the bridge."""
    client = AIOKafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


async def create(admin: AIOKafkaAdminClient, name: str, partitions: int, config: dict[str, str]) -> None:
    """Create a topic as another program would."""
    response = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
    assert response.topic_errors[0][1] == 0
    while name not in await admin.list_topics():  # noqa: ASYNC110 - brokers learn of it after the controller
        await asyncio.sleep(0.05)


async def delete(admin: AIOKafkaAdminClient, name: str) -> None:
    """Delete a topic as another program would."""
    await admin.delete_topics([name])
    while name in await admin.list_topics():  # noqa: ASYNC110 - brokers learn of it after the controller
        await asyncio.sleep(0.05)


def subjects(differences: Iterable[TopicDifference]) -> set[tuple[str, str]]:
    """Return topic and subject of each difference."""
    return {(difference.topic, difference.subject) for difference in differences}


async def test_create_makes_missing_topics_as_the_contract_defines_them(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Each topic gets the contract's partitions and configuration: no difference is left."""
    contract, settings = contract_of(prefix), settings_for(apache_kafka.bootstrap_servers)
    assert {difference.kind for difference in await diff(settings, contract)} == {"missing"}
    survey = await ensure(settings, contract)
    assert (survey.differences, survey.blocked) == ([], {})
    assert set(survey.limits) == {prefix + "video.status.ready", prefix + "dead-letter"}
    assert survey.limits[prefix + "dead-letter"].max_message_bytes == 1048588
    (topic,) = await admin.describe_topics([prefix + "dead-letter"])
    assert len(topic["partitions"]) == 3


async def test_create_works_without_an_admin_api(embedded_broker: Broker, prefix: str) -> None:
    """The embedded broker cannot configure topics: they are created with its defaults, which are not differences."""
    contract, settings = contract_of(prefix), settings_for(embedded_broker.bootstrap_servers)
    assert (await ensure(settings, contract)).differences == []
    assert await diff(settings_for(embedded_broker.bootstrap_servers), contract) == []


async def test_a_comparison_creates_nothing(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """A missing topic is still missing after the comparison."""
    await diff(settings_for(apache_kafka.bootstrap_servers), contract_of(prefix))
    assert not {name for name in await admin.list_topics() if name.startswith(prefix)}


async def test_settings_override_the_contract(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """The settings' partitions and replication replace the contract's."""
    await ensure(settings_for(apache_kafka.bootstrap_servers, partitions=5, replication_factor=1), contract_of(prefix))
    (topic,) = await admin.describe_topics([prefix + "dead-letter"])
    assert len(topic["partitions"]) == 5


async def test_the_brokers_default_applies_without_a_partition_count(apache_kafka: Broker, prefix: str) -> None:
    """Where neither contract nor settings give a count, the broker's default is accepted."""
    contract, settings = contract_of(prefix, partitions=None), settings_for(apache_kafka.bootstrap_servers)
    assert (await ensure(settings, contract)).differences == []


async def test_replicas_that_start_together_create_the_topics_once(apache_kafka: Broker, prefix: str) -> None:
    """A topic that another replica created meanwhile is not a rejection."""
    contract, settings = contract_of(prefix), settings_for(apache_kafka.bootstrap_servers)
    with capture_logs() as logs:
        surveys = await asyncio.gather(*(ensure(settings, contract) for _ in range(4)))
    assert {entry["event"] for entry in logs} == {"topics_created"}
    assert all(not survey.blocked for survey in surveys)


async def test_create_changes_no_existing_topic(apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str) -> None:
    """A topic that differs stays as it is; each difference is a warning with its fix, once."""
    await create(admin, prefix + "dead-letter", 1, {"retention.ms": "5000"})
    provisioner = TopicProvisioner(settings_for(apache_kafka.bootstrap_servers), contract_of(prefix))
    with capture_logs() as logs:
        survey = await provisioner.ensure_topics()
        await asyncio.sleep(0.6)
        await provisioner.ensure_topics()
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    expected = {(prefix + "dead-letter", "partitions"), (prefix + "dead-letter", "retention.ms")}
    assert {(entry["topic"], entry["subject"]) for entry in warnings} == expected
    assert len(warnings) == 2
    assert all(entry["fix"] for entry in warnings)
    assert subjects(survey.differences) == expected
    assert survey.blocked == {}
    assert dict(provisioner.mismatches()) == {(prefix + "dead-letter",): 2, (prefix + "video.status.ready",): 0}


async def test_verify_blocks_only_topics_that_endanger_events(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """`verify` does not raise: it blocks a missing and a compacted topic, and creates none."""
    await create(admin, prefix + "dead-letter", 7, {"cleanup.policy": "compact"})
    with capture_logs() as logs:
        survey = await ensure(
            settings_for(apache_kafka.bootstrap_servers, "verify", replication_factor=2), contract_of(prefix)
        )
    lines = [str(difference) for difference in survey.differences]
    assert len(lines) == 5
    for line in (
        "video.status.ready: the topic does not exist",
        "dead-letter: partitions is 7, not 3. Fix: Kafka cannot remove partitions",
        "dead-letter: replication factor is 1, not 2",
        "dead-letter: cleanup.policy is compact, not delete",
        "dead-letter: retention.ms is 604800000, not 86400000",
    ):
        assert any(prefix + line in found for found in lines), line
    assert set(survey.blocked) == {prefix + "video.status.ready", prefix + "dead-letter"}
    assert "compact" in survey.blocked[prefix + "dead-letter"]
    assert [entry["event"] for entry in logs] == ["topic_mismatch"] * 5
    assert prefix + "video.status.ready" not in await admin.list_topics()


async def test_verify_blocks_nothing_when_retention_was_edited(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """An edited `retention.ms` is a warning only."""
    contract = contract_of(prefix)
    for name in ("video.status.ready", "dead-letter"):
        await create(admin, prefix + name, 3, {**CONFIG, "retention.ms": "5000"})
    survey = await ensure(settings_for(apache_kafka.bootstrap_servers, "verify"), contract)
    assert {difference.subject for difference in survey.differences} == {"retention.ms"}
    assert survey.blocked == {}


async def test_a_deleted_topic_is_created_again_by_its_contract(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A later check of the same daemon creates the topic with the contract's partitions."""
    provisioner = TopicProvisioner(settings_for(apache_kafka.bootstrap_servers), contract_of(prefix))
    await provisioner.ensure_topics()
    await delete(admin, prefix + "dead-letter")
    await asyncio.sleep(0.6)
    assert (await provisioner.ensure_topics()).differences == []
    (topic,) = await admin.describe_topics([prefix + "dead-letter"])
    assert len(topic["partitions"]) == 3


async def test_off_sends_no_request(prefix: str) -> None:
    """`off` blocks nothing and needs no Kafka."""
    assert await ensure(settings_for("127.0.0.1:1", "off"), contract_of(prefix)) == TopicSurvey([], {})


async def test_a_rejected_creation_blocks_its_topic(apache_kafka: Broker, prefix: str) -> None:
    """A topic that Kafka does not create is a warning with Kafka's reason and a fix; its events are held back."""
    with capture_logs() as logs:
        survey = await ensure(settings_for(apache_kafka.bootstrap_servers, replication_factor=3), contract_of(prefix))
    rejected = [entry for entry in logs if entry["event"] == "topic_create_rejected"]
    assert len(rejected) == 2
    assert "BRIDGE_TOPICS_REPLICATION_FACTOR" in rejected[0]["fix"]
    assert set(survey.blocked) == {prefix + "video.status.ready", prefix + "dead-letter"}


async def test_missing_rights_name_the_operation(guarded_kafka: GuardedKafka, prefix: str) -> None:
    """Without an ACL the topics are blocked, and the difference names the operation to allow; then they are not."""
    administrator = settings_for(guarded_kafka.node.bootstrap_servers)
    await ensure(administrator, contract_of(prefix))
    settings = administrator.model_copy(update={"kafka": guarded_kafka.user()})
    survey = await ensure(settings, contract_of(prefix))
    assert {difference.kind for difference in survey.differences} == {"access"}
    assert len(survey.blocked) == 2
    guarded_kafka.allow(prefix, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    survey = await ensure(settings, contract_of(prefix))
    assert len(survey.blocked) == 2
    assert all("--operation Write" in reason for reason in survey.blocked.values())
    guarded_kafka.allow(prefix, AclOperation.WRITE)
    assert await ensure(settings, contract_of(prefix)) == await ensure(administrator, contract_of(prefix))


async def test_a_missing_right_to_create_is_named(guarded_kafka: GuardedKafka, prefix: str) -> None:
    """A user without Create gets the rejection with the ACL to add."""
    guarded_kafka.allow(prefix, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS, AclOperation.WRITE)
    settings = settings_for(guarded_kafka.sasl).model_copy(update={"kafka": guarded_kafka.user()})
    with capture_logs() as logs:
        assert len((await ensure(settings, contract_of(prefix))).blocked) == 2
    rejected = [entry for entry in logs if entry["event"] == "topic_create_rejected"]
    assert all("--operation Create" in entry["fix"] for entry in rejected)
    assert rejected


async def test_apply_updates_entries_and_keeps_the_others(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Setting an entry keeps the entries that another program has set on the topic."""
    for name in ("video.status.ready", "dead-letter"):
        await create(admin, prefix + name, 3, {"retention.ms": "5000", "max.message.bytes": "2000000"})
    contract, settings = contract_of(prefix), settings_for(apache_kafka.bootstrap_servers)
    differences = await diff(settings, contract)
    assert {difference.kind for difference in differences} == {"config"}
    assert await apply(settings, contract, differences) == []
    assert await diff(settings, contract) == []
    kept: Any = {
        "x": SimpleNamespace(name=prefix + "dead-letter", partitions=3, config={"max.message.bytes": "2000000"})
    }
    assert await diff(settings, Contract(kept)) == []


async def test_apply_raises_a_record_limit_that_is_too_low(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A topic whose max.message.bytes cannot hold the largest dead letter is reported, and fixed by --update-config."""
    for name in ("video.status.ready", "dead-letter"):
        await create(admin, prefix + name, 3, {**CONFIG, "max.message.bytes": "300000"})
    contract, settings = contract_of(prefix), settings_for(apache_kafka.bootstrap_servers)
    differences = await diff(settings, contract)
    assert {(found.subject, found.desired) for found in differences} == {("max.message.bytes", "703147")}
    assert await apply(settings, contract, differences) == []
    assert await diff(settings, contract) == []


async def test_apply_adds_partitions_and_removes_none(
    apache_kafka: Broker, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Partitions are added where there are too few; too many remain a difference."""
    await create(admin, prefix + "video.status.ready", 1, CONFIG)
    await create(admin, prefix + "dead-letter", 4, CONFIG)
    contract, settings = contract_of(prefix), settings_for(apache_kafka.bootstrap_servers)
    assert await apply(settings, contract, await diff(settings, contract)) == []
    assert subjects(await diff(settings, contract)) == {(prefix + "dead-letter", "partitions")}
