"""The state of topics on Kafka, read without creating any.

Input: a started aiokafka client and topic names. Output: a TopicState for each name.
Invariants: no request of this module creates a topic, except in `request_creation`, which does nothing else; every
call is bounded in time; each broker is asked in turn until one responds.

aiokafka's own metadata requests by name create a missing topic (`allow_auto_topic_creation` is true there), and do not
include the client's rights. The requests here are version 8 of Kafka's Metadata API (KIP-430: authorized operations).
Requests for all topics, which aiokafka sends while no topic was added to its client, create none.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from bridge.kafka.client import client_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from bridge.config.sections import KafkaSettings

STATE_SECONDS = 2.0
"""Default time limit of `topic_state`."""
BROKER_SECONDS = 1.0
"""Time limit for one broker's response, so that a frozen broker does not use up the whole limit."""

Status = Literal["available", "missing", "no_leader", "unauthorized", "error"]
_METADATA = 3  # the number of the Metadata API
_WRITE = 1 << 4  # AclOperation.WRITE as a bit of topic_authorized_operations
_NOT_REPORTED = -(2**31)  # the broker did not report the authorized operations


class TopicState(NamedTuple):
    """The state of one topic.

    `no_leader`: `leaderless` partitions have no leader now. `unauthorized`: the client may not describe the topic or
    may not write to it. `writable` is None when the broker does not report it. `detail` names the cause and the next
    step; it is empty when the topic is available.
    """

    status: Status
    partitions: int = 0
    leaderless: tuple[int, ...] = ()
    writable: bool | None = None
    detail: str = ""


class _MetadataResponseV8(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = _METADATA
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataRequestV8(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponseV8
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicsRequest(Request[_MetadataRequestV8]):  # type: ignore[misc]
    API_KEY = _METADATA

    def __init__(self, topics: Collection[str], *, create: bool = False) -> None:
        self._names = sorted(set(topics))
        self._create = create

    def build(self, request_struct_class: type[_MetadataRequestV8]) -> _MetadataRequestV8:
        """Build the request. Called by aiokafka with the version that it negotiated."""
        return request_struct_class(self._names, self._create, False, True)  # noqa: FBT003 - Kafka's field order


@asynccontextmanager
async def metadata_client(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaClient]:
    """Connect a client for the length of the block. Raises KafkaError when no broker responds."""
    client = AIOKafkaClient(**client_options(kafka), request_timeout_ms=15_000)
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()


async def topic_state(
    client: AIOKafkaClient, topics: Collection[str], seconds: float = STATE_SECONDS
) -> dict[str, TopicState]:
    """Return the state of each of `topics` within `seconds`; creates none.

    `client` is a producer's `client`, or that of `metadata_client`. Raises KafkaError, OSError or TimeoutError when
    no broker responds.
    """
    if not topics:
        return {}
    response = await _ask(client, _TopicsRequest(topics), seconds)
    found = {topic["topic"]: _state(topic) for topic in response["topics"]}
    return {name: found.get(name) or TopicState("missing", detail=_MISSING) for name in topics}


async def request_creation(client: AIOKafkaClient, topics: Collection[str], seconds: float = STATE_SECONDS) -> None:
    """Have a broker without the CreateTopics API (the embedded one) create `topics` with its default settings."""
    await _ask(client, _TopicsRequest(topics, create=True), seconds)


async def _ask(client: AIOKafkaClient, request: _TopicsRequest, seconds: float) -> dict[str, Any]:
    brokers = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(brokers)
    failure: Exception = KafkaConnectionError("the cluster has no available broker")
    async with asyncio.timeout(seconds):
        for broker in brokers:
            try:
                async with asyncio.timeout(BROKER_SECONDS):
                    response = await client.send(broker, request)
            except (KafkaError, OSError, TimeoutError) as error:
                failure = error
            else:
                found: dict[str, Any] = response.to_object()
                return found
    raise failure


_MISSING = "the topic does not exist: run `gumlet-bridge topics apply`"
_NOT_DESCRIBABLE = "this user may not describe the topic: allow Describe and Write (kafka-acls --operation)"
_NOT_WRITABLE = "this user may not write to the topic: allow Write (kafka-acls --operation Write)"


def _state(topic: dict[str, Any]) -> TopicState:
    if (error := for_code(topic["error_code"])) is not NoError:
        fix = "correct BRIDGE_TOPICS_PREFIX" if error is InvalidTopicError else "see the brokers' log"
        failed: dict[type[Exception], TopicState] = {
            UnknownTopicOrPartitionError: TopicState("missing", detail=_MISSING),
            TopicAuthorizationFailedError: TopicState("unauthorized", detail=_NOT_DESCRIBABLE),
            LeaderNotAvailableError: TopicState("no_leader", detail="the topic has no leader yet: retry"),
        }
        return failed.get(error) or TopicState("error", detail=f"Kafka reports {error.__name__}: {fix}")
    operations = topic["authorized_operations"]
    writable = None if operations == _NOT_REPORTED else bool(operations & _WRITE)
    count = len(topic["partitions"])
    leaderless = tuple(sorted(entry["partition"] for entry in topic["partitions"] if entry["leader"] < 0))
    if writable is False:
        return TopicState("unauthorized", count, leaderless, writable, _NOT_WRITABLE)
    if leaderless:
        detail = f"{len(leaderless)} of {count} partitions have no leader: check that their brokers run"
        return TopicState("no_leader", count, leaderless, writable, detail)
    return TopicState("available", count, (), writable)
