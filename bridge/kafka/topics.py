"""Kafka's topics against the contract's: what is missing, what differs, and how to mend it.

`survey` only looks. `apply` makes the changes that it is given and no others: a topic that exists is never changed
by a daemon, only by somebody who asked for that very change. `compare` is pure. What aiokafka's admin client leaves
to its callers is done here: error codes are read from the answers, a topic's other settings survive a change of one.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from bridge.config.sections import TopicsSettings
    from bridge.contract.schemas import Contract

PROPAGATION_TIMEOUT_SECONDS = 5.0
"""How long changes are waited for, so that whoever looks next finds them."""
_SET_ON_THE_TOPIC = 1
"""Kafka's ConfigSource DYNAMIC_TOPIC_CONFIG: an entry that is the topic's own, not a default."""

Kind = Literal["missing", "partitions", "replication", "config", "unreadable"]


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A topic as contract and settings want it. `partitions` None and `replication` -1: whatever the broker says."""

    name: str
    partitions: int | None
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as Kafka has it. `config`: every entry in force; None when Kafka does not let us read it."""

    partitions: int
    replication: int
    config: Mapping[str, str] | None


class Finding(NamedTuple):
    """One difference: of which topic, in what, what is wanted, what Kafka has, how to mend it."""

    kind: Kind
    topic: str
    subject: str
    wanted: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.subject} is {self.found}, not {self.wanted}. Fix: {self.fix}"


class ChangeRejected(NamedTuple):
    """A change that Kafka did not make: of which topic, why, how to mend it."""

    topic: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.reason}. Fix: {self.fix}"


def wanted_topics(contract: Contract, settings: TopicsSettings) -> list[DesiredTopic]:
    """Return the contract's topics as the settings want them; a setting wins over the contract."""
    return [
        DesiredTopic(topic.name, settings.partitions or topic.partitions, settings.replication_factor, topic.config)
        for topic in contract.topics.values()
    ]


def compare(wanted: Sequence[DesiredTopic], found: Mapping[str, Found]) -> list[Finding]:
    """Return every difference, topic by topic in the order of `wanted`. Pure."""
    return [finding for topic in wanted for finding in _differences(topic, found.get(topic.name))]


def _differences(topic: DesiredTopic, found: Found | None) -> Iterable[Finding]:
    if found is None:
        # Kafka does not show a topic to those who may not describe it: the two cannot be told apart.
        fix = "`gumlet-bridge topics apply`; if it is there, allow this client to Describe it"
        yield Finding("missing", topic.name, "topic", "there", "missing", fix)
        return
    if topic.partitions is not None and topic.partitions != found.partitions:
        fix = "`gumlet-bridge topics apply --grow`; keys move to other partitions: an asset's order breaks that once"
        if found.partitions > topic.partitions:
            fix = (
                f"Kafka cannot take partitions away: set BRIDGE_TOPICS_PARTITIONS={found.partitions}, "
                "or `partitions` in the topic's schema"
            )
        yield Finding("partitions", topic.name, "partitions", str(topic.partitions), str(found.partitions), fix)
    if topic.replication not in (-1, found.replication):
        fix = "kafka-reassign-partitions, or set BRIDGE_TOPICS_REPLICATION_FACTOR to what it is"
        has, wants = str(found.replication), str(topic.replication)
        yield Finding("replication", topic.name, "replication factor", wants, has, fix)
    if found.config is None:
        if topic.config:
            fix = "allow this client to DescribeConfigs of the topic"
            yield Finding("unreadable", topic.name, "configuration", "readable", "not readable", fix)
        return
    for name, value in sorted(topic.config.items()):
        has = found.config.get(name, "not set")
        if _parse_list(has) != _parse_list(value):
            yield Finding("config", topic.name, name, value, has, "`gumlet-bridge topics apply --configure`")


def _parse_list(value: str) -> frozenset[str]:
    # A list of Kafka (`compact,delete`) has no order.
    return frozenset(part.strip() for part in value.split(","))


async def survey(admin: AIOKafkaAdminClient, contract: Contract, settings: TopicsSettings) -> list[Finding]:
    """Return every difference between the contract and Kafka; changes nothing."""
    wanted = wanted_topics(contract, settings)
    return compare(wanted, await _read(admin, [topic.name for topic in wanted]))


async def _read(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, Found]:
    # All names first: aiokafka asks for a topic by name with auto-creation allowed, so asking could make it.
    there = set(await admin.list_topics()) & set(names)
    if not there:
        return {}
    described = [topic for topic in await admin.describe_topics(sorted(there)) if not topic["error_code"]]
    config = await _read_config(admin, [topic["topic"] for topic in described])
    return {
        topic["topic"]: Found(
            len(topic["partitions"]),
            max((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            _values(config.get(topic["topic"])),
        )
        for topic in described
    }


def _values(entries: Mapping[str, _Entry] | None) -> dict[str, str] | None:
    if entries is None:
        return None
    return {name: entry.value for name, entry in entries.items() if entry.value is not None}


class _Entry(NamedTuple):
    value: str | None
    own: bool


async def _read_config(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, _Entry]]:
    """Return each topic's entries by name; a topic whose configuration Kafka does not tell is absent."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    return {
        resource["resource_name"]: {
            entry["config_names"]: _Entry(entry["config_value"], entry.get("config_source") == _SET_ON_THE_TOPIC)
            for entry in resource["config_entries"]
        }
        for response in await admin.describe_configs(resources)
        for resource in response.to_object()["resources"]
        if not resource["error_code"]
    }


async def apply(
    admin: AIOKafkaAdminClient, contract: Contract, settings: TopicsSettings, findings: Iterable[Finding]
) -> list[ChangeRejected]:
    """Make these changes (missing topics, configuration, more partitions) and return those that Kafka refused.

    What cannot be applied (replication, fewer partitions) is passed over. Safe to repeat, and for replicas to do at
    once: a topic that another one made meanwhile is no refusal.
    """
    findings = list(findings)
    # Where there is no controller (a cluster that is starting) aiokafka would fail with an AttributeError.
    if findings and (await admin.describe_cluster())["controller_id"] == -1:
        raise KafkaConnectionError("Kafka has no controller now and cannot change topics")
    by_kind: dict[Kind, dict[str, list[Finding]]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, {}).setdefault(finding.topic, []).append(finding)
    missing = [t for t in wanted_topics(contract, settings) if t.name in by_kind.get("missing", {})]
    refusals = await _create(admin, missing)
    for name, entries in by_kind.get("config", {}).items():
        refusals += await _configure(admin, name, {finding.subject: finding.wanted for finding in entries})
    for name, (finding, *_) in by_kind.get("partitions", {}).items():
        if _grows(finding):
            refusals += await _grow(admin, name, int(finding.wanted))
    refused = {refusal.topic for refusal in refusals}
    await _wait_until_visible(
        admin, contract, settings, [finding for finding in findings if finding.topic not in refused]
    )
    return refusals


async def _wait_until_visible(
    admin: AIOKafkaAdminClient, contract: Contract, settings: TopicsSettings, findings: Sequence[Finding]
) -> None:
    """Wait until Kafka shows the changes, but not for ever: its brokers hear of them a moment after its controller."""
    made = {finding[:3] for finding in findings if finding.kind in ("missing", "config") or _grows(finding)}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROPAGATION_TIMEOUT_SECONDS):
            while made & {each[:3] for each in await survey(admin, contract, settings)}:  # noqa: ASYNC110 - no news of it
                await asyncio.sleep(0.1)


def _grows(finding: Finding) -> bool:
    return finding.kind == "partitions" and int(finding.wanted) > int(finding.found)


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[DesiredTopic]) -> list[ChangeRejected]:
    if not topics:
        return []
    requests = [
        # An empty assignment and not None: with None aiokafka refuses the -1 that leaves a count to the broker.
        NewTopic(
            topic.name,
            topic.partitions or -1,
            topic.replication,
            {} if -1 in (topic.partitions or -1, topic.replication) else None,
            dict(topic.config),
        )
        for topic in topics
    ]
    response = await admin.create_topics(requests)
    refusals: list[ChangeRejected] = []
    for name, code, message in response.topic_errors:
        if for_code(code) is not TopicAlreadyExistsError:
            refusals += _refused(name, code, message, "Create")
    return refusals


async def _configure(admin: AIOKafkaAdminClient, name: str, changes: Mapping[str, str]) -> list[ChangeRejected]:
    entries = (await _read_config(admin, [name])).get(name)
    if entries is None:
        fix = "allow this client to DescribeConfigs of the topic"
        return [ChangeRejected(name, "its configuration cannot be read", fix)]
    # AlterConfigs replaces all: an entry that is not sent again goes back to the broker's default.
    kept = {key: entry.value for key, entry in entries.items() if entry.own and entry.value is not None}
    resource = ConfigResource(ConfigResourceType.TOPIC, name, {**kept, **changes})
    refusals: list[ChangeRejected] = []
    for response in await admin.alter_configs([resource]):
        for code, message, _, topic in response.resources:
            refusals += _refused(topic, code, message, "AlterConfigs")
    return refusals


async def _grow(admin: AIOKafkaAdminClient, name: str, partitions: int) -> list[ChangeRejected]:
    try:
        await admin.create_partitions({name: NewPartitions(partitions)})
    except KafkaError as error:
        return _refused(name, getattr(error, "errno", -1), str(error), "Alter")
    return []


def _refused(topic: str, code: int, message: str | None, operation: str) -> list[ChangeRejected]:
    """Read one answer of Kafka. Raises what a later attempt may mend."""
    error: Any = for_code(code)
    if code == 0:
        return []
    if error.retriable and error is not UnknownTopicOrPartitionError:
        raise error(message or topic)
    fix = "see Kafka's message"
    if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        fix = f"allow this client's user to {operation} the topic (kafka-acls --operation {operation})"
    elif error is InvalidReplicationFactorError:
        fix = "set BRIDGE_TOPICS_REPLICATION_FACTOR to at most the number of brokers, or -1 for their default"
    return [ChangeRejected(topic, f"Kafka refused: {message or error.description} ({error.message})", fix)]
