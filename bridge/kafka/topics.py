"""Compares the topics on Kafka with those of the contract. Reads only; `provisioning` makes changes.

Input: the contract, the settings, a connected client. Output: a TopicSurvey: every TopicDifference with its fix, and
the TopicLimits of each topic whose configuration can be read.

Invariants: no topic is created or changed; `compare` is pure. A difference is `blocking` only where publishing to the
topic would fail or lose events (the topic is missing, compaction would delete events); other differences are warnings.
A partition count that differs is a warning: the events of an asset stay in one partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.admin import DescribeConfigsRequest

from bridge.errors import split_fix
from bridge.kafka.connection import send_to_any
from bridge.kafka.metadata import MISSING, TopicState, topic_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka.client import AIOKafkaClient

    from bridge.config.settings import Settings
    from bridge.contract.schemas import Contract

TOPIC_RESOURCE = 2
"""Kafka's ConfigResource type TOPIC."""
READ_SECONDS = 15.0
"""Time limit for reading the topics or their configuration."""
MIN_BODY_BYTES = 65_536
"""Smallest limit for bodies that is worth advising: Gumlet's deliveries are smaller."""
RECORD_OVERHEAD_BYTES = 4096
"""Maximum size of a dead letter's fields and headers without the body."""
_SET_ON_THE_TOPIC = 1  # Kafka's ConfigSource DYNAMIC_TOPIC_CONFIG: the entry is the topic's own, not a default
_UNLIMITED_MS = 2**63 - 1
_MAX_BYTES = "max.message.bytes"
_TOPIC, _ACCESS = "topic", "access"

Kind = Literal["missing", "partitions", "replication", "config", "unreadable", "access"]


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A topic as contract and settings define it. `partitions` None and `replication` -1: the broker's default.

    `record_bytes` is the size of the largest record that the bridge can publish to it.
    """

    name: str
    partitions: int | None
    replication: int
    config: Mapping[str, str]
    record_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ActualTopic:
    """A topic on Kafka. `config` has every effective entry; None when this client may not read it."""

    partitions: int
    replication: int
    config: Mapping[str, str] | None


class TopicLimits(NamedTuple):
    """The limits that a topic sets for its records: size, and how far a timestamp may be from the broker's clock."""

    max_message_bytes: int
    before_max_ms: int = _UNLIMITED_MS
    after_max_ms: int = _UNLIMITED_MS

    def accepted_times(self, now_ms: int) -> tuple[int, int]:
        """Return the earliest and the latest record timestamp that the topic accepts at `now_ms`."""
        return max(0, now_ms - self.before_max_ms), now_ms + self.after_max_ms

    @classmethod
    def of(cls, config: Mapping[str, str]) -> TopicLimits:
        """Read the limits from a topic's effective configuration; an absent entry sets no limit."""
        if config.get("message.timestamp.type") == "LogAppendTime":
            return cls(int(config.get(_MAX_BYTES, _UNLIMITED_MS)))
        # The name before Kafka 3.6, one limit for both directions.
        both = config.get("message.timestamp.difference.max.ms", _UNLIMITED_MS)
        before, after = (int(config.get(f"message.timestamp.{side}.max.ms", both)) for side in ("before", "after"))
        return cls(int(config.get(_MAX_BYTES, _UNLIMITED_MS)), before, after)


class TopicDifference(NamedTuple):
    """One difference between a topic and the contract. `blocking`: events must not be published to the topic."""

    kind: Kind
    topic: str
    subject: str
    desired: str
    actual: str
    fix: str
    blocking: bool = False

    @property
    def cause(self) -> str:
        """What is wrong with the topic, without its name."""
        if self.subject in (_TOPIC, _ACCESS):
            return self.actual
        return f"{self.subject} is {self.actual}, not {self.desired}"

    def __str__(self) -> str:
        return f"{self.topic}: {self.cause}. Fix: {self.fix}"


class TopicSurvey(NamedTuple):
    """The result of a comparison: the differences, and the limits of each topic by name."""

    differences: list[TopicDifference]
    limits: dict[str, TopicLimits]

    @property
    def blocked(self) -> dict[str, str]:
        """The topics that must not be published to, each with the reason."""
        return {found.topic: f"{found.cause}. Fix: {found.fix}" for found in self.differences if found.blocking}


def max_record_bytes(max_body_bytes: int) -> int:
    """Return the size of the largest record: a dead letter, whose body is base64."""
    return -(-max_body_bytes * 4 // 3) + RECORD_OVERHEAD_BYTES


def desired_topics(contract: Contract, settings: Settings) -> list[DesiredTopic]:
    """Return the contract's topics with the settings applied; a setting overrides the contract."""
    defaults, size = settings.topics, max_record_bytes(settings.max_body_bytes)
    return [
        DesiredTopic(
            topic.name, defaults.partitions or topic.partitions, defaults.replication_factor, topic.config, size
        )
        for topic in contract.topics.values()
    ]


def compare(desired: Sequence[DesiredTopic], actual: Mapping[str, ActualTopic]) -> list[TopicDifference]:
    """Return every difference, topic by topic in the order of `desired`. Pure."""
    return [difference for topic in desired for difference in _differences(topic, actual.get(topic.name))]


def _differences(desired: DesiredTopic, actual: ActualTopic | None) -> Iterable[TopicDifference]:
    name = desired.name
    if actual is None:
        cause, fix = split_fix(MISSING)
        yield TopicDifference("missing", name, _TOPIC, "available", cause, fix, blocking=True)
        return
    if desired.partitions is not None and desired.partitions != actual.partitions:
        fix = "`gumlet-bridge topics apply --add-partitions`; keys are then assigned to other partitions"
        if actual.partitions > desired.partitions:
            fix = (
                f"Kafka cannot remove partitions: set BRIDGE_TOPICS_PARTITIONS={actual.partitions}, "
                "or `partitions` in the topic's schema"
            )
        yield TopicDifference("partitions", name, "partitions", str(desired.partitions), str(actual.partitions), fix)
    if desired.replication not in (-1, actual.replication):
        fix = f"kafka-reassign-partitions, or set BRIDGE_TOPICS_REPLICATION_FACTOR={actual.replication}"
        yield TopicDifference(
            "replication", name, "replication factor", str(desired.replication), str(actual.replication), fix
        )
    if actual.config is not None:
        yield from _config_differences(desired, actual.config)
    elif desired.config:
        fix = "allow this client to DescribeConfigs of the topic (kafka-acls --operation DescribeConfigs)"
        yield TopicDifference("unreadable", name, "configuration", "readable", "not readable", fix)


def _config_differences(desired: DesiredTopic, actual: Mapping[str, str]) -> Iterable[TopicDifference]:
    fix = "`gumlet-bridge topics apply --update-config`"
    for entry, value in sorted(desired.config.items()):
        has = actual.get(entry, "not set")
        if _parse_list(has) != _parse_list(value):
            # Compaction deletes all but the newest event of an asset, and rejects a dead letter without a key.
            compacts = entry == "cleanup.policy" and "compact" in _parse_list(has) - _parse_list(value)
            yield TopicDifference("config", desired.name, entry, value, has, fix, blocking=compacts)
    limit = TopicLimits.of(actual).max_message_bytes
    if limit < desired.record_bytes and _MAX_BYTES not in desired.config:
        fix += " sets it on the topic"
        if (largest_body := (limit - RECORD_OVERHEAD_BYTES) * 3 // 4) >= MIN_BODY_BYTES:
            fix += f"; or lower BRIDGE_MAX_BODY_BYTES to {largest_body}"
        yield TopicDifference("config", desired.name, _MAX_BYTES, str(desired.record_bytes), str(limit), fix)


def _parse_list(value: str) -> frozenset[str]:
    # A list of Kafka (`compact,delete`) has no order.
    return frozenset(part.strip() for part in value.split(","))


async def diff_topics(client: AIOKafkaClient, contract: Contract, settings: Settings) -> TopicSurvey:
    """Compare every topic of the contract with Kafka.

    Raises KafkaError, OSError or TimeoutError when Kafka does not respond.
    """
    desired = desired_topics(contract, settings)
    states = await topic_state(client, [topic.name for topic in desired], READ_SECONDS)
    existing = [name for name, state in states.items() if state.partitions]
    try:
        config = await read_config(client, existing)
    except IncompatibleBrokerVersion:
        # The embedded broker: its topics cannot be configured, so only their existence is compared.
        return TopicSurvey([found for found in compare(desired, {}) if found.topic not in existing], {})
    values = {
        name: {key: entry.value for key, entry in entries.items() if entry.value is not None}
        for name, entries in config.items()
    }
    actual = {
        name: ActualTopic(states[name].partitions, states[name].replication, values.get(name)) for name in existing
    }
    differences = [_with_state(difference, states[difference.topic]) for difference in compare(desired, actual)]
    for name, state in states.items():
        if state.writable is False:
            cause, fix = split_fix(state.detail)
            differences.append(TopicDifference("access", name, _ACCESS, "writable", cause, fix, blocking=True))
    return TopicSurvey(differences, {name: TopicLimits.of(entries) for name, entries in values.items()})


def _with_state(difference: TopicDifference, state: TopicState) -> TopicDifference:
    """Name the real state of a topic that has no visible partitions but is not missing."""
    if difference.kind != "missing" or state.status == "missing":
        return difference
    kind: Kind = "access" if state.status == "unauthorized" else "unreadable"
    cause, fix = split_fix(state.detail)
    return difference._replace(kind=kind, actual=cause, fix=fix)


class ConfigEntry(NamedTuple):
    """A configuration entry of a topic. `own`: it is set on the topic itself."""

    value: str | None
    own: bool


async def read_config(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, dict[str, ConfigEntry]]:
    """Return each topic's entries by name; a topic whose configuration this client may not read is absent."""
    resources = [(TOPIC_RESOURCE, name, None) for name in topics]
    if not resources:
        return {}
    response: dict[str, Any] = await send_to_any(client, DescribeConfigsRequest(resources), READ_SECONDS)
    return {
        resource["resource_name"]: {
            entry["config_names"]: ConfigEntry(entry["config_value"], entry.get("config_source") == _SET_ON_THE_TOPIC)
            for entry in resource["config_entries"]
        }
        for resource in response["resources"]
        if not resource["error_code"]
    }
