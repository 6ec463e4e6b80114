"""Creates and changes topics, and keeps the daemon's topics as `topics.provision` requires.

`apply_changes` applies the differences that it is given and no others. `TopicProvisioner.ensure_topics` is what the
daemon calls at start, at each reconnection and before it retries a blocked topic.

Invariants: the daemon creates missing topics (`create`) and never changes an existing one. A topic is only created
with the contract's partitions and configuration. Nothing here ends the daemon: topics that must not be published to
are returned, and their events are parked. Each difference is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidReplicationFactorError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import AlterConfigsRequest, CreatePartitionsRequest, CreateTopicsRequest

from bridge.kafka.connection import kafka_client
from bridge.kafka.metadata import request_creation
from bridge.kafka.topics import (
    TOPIC_RESOURCE,
    DesiredTopic,
    TopicDifference,
    TopicSurvey,
    desired_topics,
    diff_topics,
    read_config,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka.client import AIOKafkaClient

    from bridge.config.settings import Settings
    from bridge.contract.schemas import Contract

CHANGE_TIMEOUT_MS = 15_000
"""Time limit of a change on the broker."""
PROPAGATION_TIMEOUT_SECONDS = 15.0
"""How long to wait until a change is visible on the brokers."""

T = TypeVar("T", "TopicDifference", "ChangeRejected")
MIN_INTERVAL_SECONDS = 0.5
"""Minimum time between two checks of a daemon."""

_log = structlog.stdlib.get_logger()


class ChangeRejected(NamedTuple):
    """A change that Kafka rejected."""

    topic: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.reason}. Fix: {self.fix}"


class TopicProvisioner:
    """Applies `topics.provision` for a daemon."""

    def __init__(self, settings: Settings, contract: Contract) -> None:
        self._settings = settings
        self._contract = contract
        self._names = [topic.name for topic in contract.topics.values()]
        self._lock = asyncio.Lock()
        self._checked_at = -MIN_INTERVAL_SECONDS
        self._survey = TopicSurvey([], {})
        self._logged: set[TopicDifference | ChangeRejected] = set()
        self._mismatches: Counter[str] = Counter()

    def mismatches(self) -> list[tuple[tuple[str], int]]:
        """Return the number of differences of each topic, as of the last check, with the topic as label."""
        return [((name,), self._mismatches[name]) for name in self._names]

    async def ensure_topics(self) -> TopicSurvey:
        """Compare the topics with the contract, create missing ones if `create`, and log new differences.

        With `off`, returns an empty survey without a request. Calls within MIN_INTERVAL_SECONDS share a result, so
        that many blocked topics cost one check. Raises KafkaError, OSError or TimeoutError when Kafka does not
        respond: the caller retries.
        """
        async with self._lock:
            if self._settings.topics.provision != "off" and time.monotonic() >= self._checked_at + MIN_INTERVAL_SECONDS:
                self._survey = await self._check(self._settings.topics.provision)
                self._checked_at = time.monotonic()
        return self._survey

    async def _check(self, mode: str) -> TopicSurvey:
        async with kafka_client(self._settings.kafka) as client:
            survey = await diff_topics(client, self._contract, self._settings)
            missing = [difference for difference in survey.differences if difference.kind == "missing"]
            rejected: list[ChangeRejected] = []
            if missing and mode == "create":
                rejected = await apply_changes(client, self._contract, self._settings, missing)
                survey = await diff_topics(client, self._contract, self._settings)
        still_missing = {difference.topic for difference in survey.differences if difference.kind == "missing"}
        if mode == "create" and (created := [m.topic for m in missing if m.topic not in still_missing]):
            _log.info("topics_created", count=len(created), first=created[0])
        for rejection in self._new(rejected):
            _log.warning("topic_create_rejected", **rejection._asdict())
        for difference in self._new(survey.differences):
            _log.warning("topic_mismatch", **difference._asdict())
        self._logged = {*rejected, *survey.differences}
        self._mismatches = Counter(difference.topic for difference in survey.differences)
        return survey

    def _new(self, found: Iterable[T]) -> list[T]:
        return [each for each in found if each not in self._logged]


async def apply_changes(
    client: AIOKafkaClient, contract: Contract, settings: Settings, differences: Iterable[TopicDifference]
) -> list[ChangeRejected]:
    """Apply these differences (missing topics, configuration, more partitions); return those that Kafka rejected.

    Differences that cannot be applied (replication, fewer partitions) are skipped. Safe to repeat, and for several
    replicas to run at once: a topic that another replica created meanwhile is not a rejection.
    """
    differences = list(differences)
    missing = {difference.topic for difference in differences if difference.kind == "missing"}
    rejected = await _create(client, [topic for topic in desired_topics(contract, settings) if topic.name in missing])
    entries: dict[str, dict[str, str]] = {}
    for difference in differences:
        if difference.kind == "config":
            entries.setdefault(difference.topic, {})[difference.subject] = difference.desired
        elif is_addition(difference):
            rejected += await _add_partitions(client, difference.topic, int(difference.desired))
    for name, changes in entries.items():
        rejected += await _update_config(client, name, changes)
    failed = {rejection.topic for rejection in rejected}
    await _wait_until_visible(client, contract, settings, [d for d in differences if d.topic not in failed])
    return rejected


async def _wait_until_visible(
    client: AIOKafkaClient, contract: Contract, settings: Settings, differences: Sequence[TopicDifference]
) -> None:
    """Wait until the brokers show the changes, at most PROPAGATION_TIMEOUT_SECONDS."""
    changed = {found[:3] for found in differences if found.kind in ("missing", "config") or is_addition(found)}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROPAGATION_TIMEOUT_SECONDS):
            while True:
                survey = await diff_topics(client, contract, settings)
                if not changed & {found[:3] for found in survey.differences}:
                    return
                await asyncio.sleep(0.1)


def is_addition(difference: TopicDifference) -> bool:
    """Return whether a difference can be resolved by adding partitions."""
    return difference.kind == "partitions" and int(difference.desired) > int(difference.actual)


async def _send(client: AIOKafkaClient, request: Any) -> dict[str, Any]:
    """Send a change to the cluster's controller, or to any broker if none is known; return the response."""
    controller = client.cluster.controller
    node = client.get_random_node() if controller is None else controller.nodeId
    async with asyncio.timeout(CHANGE_TIMEOUT_MS / 1000):
        response = await client.send(node, request)
    found: dict[str, Any] = response.to_object()
    return found


async def _create(client: AIOKafkaClient, topics: Sequence[DesiredTopic]) -> list[ChangeRejected]:
    if not topics:
        return []
    requests: list[Any] = [
        (topic.name, topic.partitions or -1, topic.replication, [], list(topic.config.items())) for topic in topics
    ]
    try:
        response = await _send(client, CreateTopicsRequest(requests, CHANGE_TIMEOUT_MS, validate_only=False))
    except IncompatibleBrokerVersion:
        await request_creation(client, [topic.name for topic in topics])
        return []
    return [
        rejection
        for entry in response["topic_errors"]
        if for_code(entry["error_code"]) is not TopicAlreadyExistsError
        for rejection in _rejections(entry["topic"], entry["error_code"], entry["error_message"], "Create")
    ]


async def _update_config(client: AIOKafkaClient, name: str, changes: Mapping[str, str]) -> list[ChangeRejected]:
    entries = (await read_config(client, [name])).get(name)
    if entries is None:
        fix = "allow this client to DescribeConfigs of the topic"
        return [ChangeRejected(name, "its configuration cannot be read", fix)]
    # AlterConfigs replaces all: an entry that is not sent again returns to the broker's default.
    kept = {key: entry.value for key, entry in entries.items() if entry.own and entry.value is not None}
    resource = (TOPIC_RESOURCE, name, list({**kept, **changes}.items()))
    response = await _send(client, AlterConfigsRequest([resource]))
    (result,) = response["resources"]
    return _rejections(name, result["error_code"], result["error_message"], "AlterConfigs")


async def _add_partitions(client: AIOKafkaClient, name: str, count: int) -> list[ChangeRejected]:
    request = CreatePartitionsRequest([(name, (count, None))], CHANGE_TIMEOUT_MS, validate_only=False)
    (result,) = (await _send(client, request))["topic_errors"]
    return _rejections(name, result["error_code"], result["error_message"], "Alter")


def _rejections(topic: str, code: int, message: str | None, operation: str) -> list[ChangeRejected]:
    """Read one result of Kafka. Raises an error that a later attempt may not meet."""
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
    return [ChangeRejected(topic, f"Kafka rejected the change: {message or error.description} ({error.message})", fix)]
