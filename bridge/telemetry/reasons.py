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

NEXT_STEPS = {
    "queue_full": "the disk or Kafka is too slow for the traffic: check bridge_journal_commit_seconds; add replicas",
    "journal_full": "bring Kafka or the blocked topic back, or enlarge the disk and BRIDGE_JOURNAL_MAX_BYTES",
    "disk_full": "free space on the journal's disk, or lower BRIDGE_JOURNAL_MIN_FREE_BYTES",
    "journal_unavailable": "fix the journal's disk or its permissions; see the log line journal_write_failed",
    "kafka_unreachable": "check the brokers and BRIDGE_KAFKA_…; with BRIDGE_ACK=kafka nothing is accepted meanwhile",
    "kafka_ack_timeout": "Kafka confirms too slowly: check the brokers; raise BRIDGE_ACK_TIMEOUT_SECONDS",
    "topic_unavailable": "gumlet-bridge topics check",
    "missing_token": "set the Secret Token of the webhook in Gumlet's dashboard; a stranger's need no action",
    "invalid_token": "compare the token in Gumlet's dashboard with those of the bridge; a stranger's need no action",
    "body_too_large": "raise BRIDGE_MAX_BODY_BYTES if these are Gumlet's deliveries",
    "body_timeout": "check the network and proxies in front of the bridge; BRIDGE_REQUEST_TIMEOUT_SECONDS",
    "unsupported_encoding": "configure the proxy in front of the bridge not to compress request bodies",
    "internal_error": "see the log line internal_error; report it as a bug",
    "too_many_connections": "raise BRIDGE_MAX_CONNECTIONS, or block the senders that hold connections",
    "too_many_connections_per_address": "raise BRIDGE_MAX_CONNECTIONS_PER_ADDRESS behind a proxy",
}
"""What to do about a rejection that may have hit Gumlet's deliveries; other reasons are strangers' mistakes."""

UNTIL_CAPACITY = frozenset({"queue_full", "journal_full", "disk_full", "journal_unavailable", "kafka_unreachable"})
"""Reasons that end as soon as deliveries are accepted again."""

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
