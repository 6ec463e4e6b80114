"""The state of topics on Kafka, read without creating any.

Input: a started aiokafka client and topic names. Output: a TopicState for each name.
Invariants: no request of this module creates a topic, except in `request_creation`, which does nothing else; every
call is bounded in time.

aiokafka's own metadata requests by name create a missing topic (`allow_auto_topic_creation` is true there), and do not
include the client's rights. The requests here are version 8 of Kafka's Metadata API (KIP-430: authorized operations).
Requests for all topics, which aiokafka sends while no topic was added to its client, create none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiokafka.errors import (
    InvalidTopicError,
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from bridge.kafka.connection import send_to_any

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka.client import AIOKafkaClient

STATE_SECONDS = 2.0
"""Default time limit of `topic_state`."""

Status = Literal["available", "missing", "no_leader", "unauthorized", "error"]
_METADATA = 3  # the number of the Metadata API
_WRITE = 1 << 4  # AclOperation.WRITE as a bit of topic_authorized_operations
_NOT_REPORTED = -(2**31)  # the broker did not report the authorized operations


class TopicState(NamedTuple):
    """The state of one topic.

    `no_leader`: `leaderless` partitions have no leader now. `unauthorized`: the client may not describe the topic or
    may not write to it. `writable`: None when the broker does not report it. `detail` names the cause and the next
    step (`cause. Fix: step`); it is empty when the topic is available.
    """

    status: Status
    partitions: int = 0
    replication: int = 0
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


async def topic_state(
    client: AIOKafkaClient, topics: Collection[str], seconds: float = STATE_SECONDS
) -> dict[str, TopicState]:
    """Return the state of each of `topics` within `seconds`; creates none.

    `client` is a producer's `client`, or that of `kafka_client`. Raises KafkaError, OSError or TimeoutError when
    no broker responds.
    """
    if not topics:
        return {}
    response = await send_to_any(client, _TopicsRequest(topics), seconds)
    found = {topic["topic"]: _state(topic) for topic in response["topics"]}
    return {name: found.get(name) or TopicState("missing", detail=MISSING) for name in topics}


async def request_creation(client: AIOKafkaClient, topics: Collection[str], seconds: float = STATE_SECONDS) -> None:
    """Have a broker without the CreateTopics API (the embedded one) create `topics` with its default settings."""
    await send_to_any(client, _TopicsRequest(topics, create=True), seconds)


MISSING = "the topic does not exist. Fix: `gumlet-bridge topics apply`"
_NOT_DESCRIBABLE = (
    "this user may not describe the topic. Fix: allow what it does there: Write, Read or Alter, which include Describe "
    "(kafka-acls --operation Write)"
)
_NOT_WRITABLE = "this user may not write to the topic. Fix: allow Write (kafka-acls --operation Write)"


def _state(topic: dict[str, Any]) -> TopicState:
    if (error := for_code(topic["error_code"])) is not NoError:
        fix = "correct BRIDGE_TOPICS_PREFIX" if error is InvalidTopicError else "see the brokers' log"
        failed: dict[type[Exception], TopicState] = {
            UnknownTopicOrPartitionError: TopicState("missing", detail=MISSING),
            TopicAuthorizationFailedError: TopicState("unauthorized", detail=_NOT_DESCRIBABLE),
            LeaderNotAvailableError: TopicState(
                "no_leader", detail="the topic has no leader yet. Fix: check that the brokers run"
            ),
        }
        return failed.get(error) or TopicState("error", detail=f"Kafka reports {error.__name__}. Fix: {fix}")
    operations = topic["authorized_operations"]
    writable = None if operations == _NOT_REPORTED else bool(operations & _WRITE)
    count = len(topic["partitions"])
    replication = max((len(entry["replicas"]) for entry in topic["partitions"]), default=0)
    leaderless = tuple(sorted(entry["partition"] for entry in topic["partitions"] if entry["leader"] < 0))
    found = TopicState("available", count, replication, leaderless, writable)
    if writable is False:
        return found._replace(status="unauthorized", detail=_NOT_WRITABLE)
    if leaderless:
        detail = f"{len(leaderless)} of {count} partitions have no leader. Fix: check that their brokers run"
        return found._replace(status="no_leader", detail=detail)
    return found
