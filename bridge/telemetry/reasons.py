"""The closed sets of label values: why a request is rejected, and why a delivery becomes a dead letter.

Every value is exposed from the start with the count 0, so that `increase()` in Prometheus sees the first failure.
A reason that is missing here is counted as `other`; a unit test compares these sets with the code.
"""

from __future__ import annotations

OTHER = "other"
"""Replaces a label value beyond its bound."""

REJECTIONS = {
    "malformed_request": 400,
    "malformed_body": 400,
    "truncated_body": 400,
    "invalid_token": 401,
    "missing_token": 401,
    "unknown_path": 404,
    "unknown_source": 404,
    "method_not_allowed": 405,
    "header_timeout": 408,
    "body_timeout": 408,
    "body_too_large": 413,
    "unsupported_encoding": 415,
    "headers_too_large": 431,
    "too_many_connections": 503,
    "too_many_connections_per_address": 503,
    "connection_evicted": 503,
    "queue_full": 503,
    "journal_full": 503,
    "journal_unavailable": 503,
    "disk_full": 503,
    "kafka_ack_timeout": 503,
    "kafka_unreachable": 503,
    "topic_unavailable": 503,
    "shutting_down": 503,
    "internal_error": 503,
}
"""Each reason for rejecting a request or a connection, with its usual HTTP status."""

DEAD_LETTERS = frozenset(
    {
        "invalid_json",
        "not_an_object",
        "nesting_too_deep",
        "schema_violation",
        "internal_error",
        "rejected_by_kafka",
        "record_too_large",
    }
)
"""Each reason for publishing a delivery to the dead-letter topic."""
