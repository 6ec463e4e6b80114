"""Classifies the errors of a produce request by their number in Kafka's protocol.

Input: the exception of a batch. Output: what it concerns (a record, the records' times, the topic, or nothing known).

Invariants: only a number that names a fault of the record itself lets an event be dead-lettered; a fault of its time
does so only when the present time is rejected too. A number that is not listed here means that the batch is sent again.
"""

from __future__ import annotations

from typing import Literal

from aiokafka.errors import BrokerResponseError, kafka_errors

Concern = Literal["record", "record_time", "topic", "unknown"]


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """The broker validated the record and rejected it (INVALID_RECORD, KIP-467)."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker rejected the record"


# aiokafka maps each number that it does not know to UnknownError, which loses the number. This table is its registry.
kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

MESSAGE_TOO_LARGE = 10
RECORD_LIST_TOO_LARGE = 18
INVALID_TIMESTAMP = 32
INVALID_RECORD = 87

TOO_LARGE = frozenset({MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE})
_RECORD = TOO_LARGE | {INVALID_RECORD}
_TOPIC = frozenset(
    {
        3,  # UNKNOWN_TOPIC_OR_PARTITION
        5,  # LEADER_NOT_AVAILABLE
        6,  # NOT_LEADER_OR_FOLLOWER
        17,  # INVALID_TOPIC_EXCEPTION
        29,  # TOPIC_AUTHORIZATION_FAILED
        43,  # UNSUPPORTED_FOR_MESSAGE_FORMAT
        44,  # POLICY_VIOLATION
        56,  # KAFKA_STORAGE_ERROR
    }
)


def error_number(error: BaseException) -> int | None:
    """Return the number that a broker returned, None for an error that is not a broker's response."""
    return error.errno if isinstance(error, BrokerResponseError) else None


def classify(error: BaseException) -> Concern:
    """Return what the error of a batch concerns."""
    number = error_number(error)
    if number in _RECORD:
        return "record"
    if number == INVALID_TIMESTAMP:
        return "record_time"
    return "topic" if number in _TOPIC else "unknown"
