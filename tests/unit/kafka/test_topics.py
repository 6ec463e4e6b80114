"""The comparison of topics is pure: desired topics, actual topics, a list of differences."""

from __future__ import annotations

import pytest

from bridge.kafka.topics import ActualTopic, DesiredTopic, TopicLimits, compare, max_record_bytes

DESIRED = DesiredTopic("gumlet.x", 6, 3, {"cleanup.policy": "compact,delete", "retention.ms": "1000"})
CONFIG = {"cleanup.policy": "delete,compact", "retention.ms": "1000", "segment.bytes": "7"}
ACTUAL = ActualTopic(6, 3, CONFIG)


def test_equal_topics_have_no_difference() -> None:
    """Lists have no order, and entries that the contract does not name are not compared."""
    assert compare([DESIRED], {"gumlet.x": ACTUAL, "another": ACTUAL}) == []


def test_a_missing_topic_is_one_blocking_difference() -> None:
    """A topic that does not exist is one difference, and nothing can be published to it."""
    (difference,) = compare([DESIRED], {})
    assert (difference.kind, difference.topic, difference.blocking) == ("missing", "gumlet.x", True)
    assert "topics apply" in difference.fix


@pytest.mark.parametrize(("actual", "fix"), [(3, "--add-partitions"), (12, "cannot remove partitions")])
def test_a_partition_count_that_differs_has_a_fix_and_does_not_block(actual: int, fix: str) -> None:
    """Partitions can be added, not removed; an asset's events stay in one partition in either case."""
    (difference,) = compare([DESIRED], {"gumlet.x": ActualTopic(actual, 3, CONFIG)})
    assert (difference.kind, difference.desired, difference.actual) == ("partitions", "6", str(actual))
    assert fix in difference.fix
    assert not difference.blocking


def test_a_replication_factor_that_differs_is_reported() -> None:
    """A replication factor is changed with Kafka's own tool."""
    (difference,) = compare([DESIRED], {"gumlet.x": ActualTopic(6, 1, CONFIG)})
    assert (difference.kind, difference.desired, difference.actual) == ("replication", "3", "1")


def test_the_brokers_defaults_never_differ() -> None:
    """A value that the contract leaves to the broker is not compared."""
    assert compare([DesiredTopic("gumlet.x", None, -1, {})], {"gumlet.x": ActualTopic(50, 2, None)}) == []


def test_each_configuration_entry_that_differs_is_a_difference() -> None:
    """The line of a difference names topic, entry, both values and the fix."""
    first, second = compare([DESIRED], {"gumlet.x": ActualTopic(6, 3, {"cleanup.policy": "delete"})})
    assert (first.subject, second.subject) == ("cleanup.policy", "retention.ms")
    assert str(first) == (
        "gumlet.x: cleanup.policy is delete, not compact,delete. Fix: `gumlet-bridge topics apply --update-config`"
    )
    assert second.actual == "not set"
    assert not first.blocking


def test_a_configuration_that_cannot_be_read_is_reported() -> None:
    """An unreadable configuration is not taken for an equal one."""
    (difference,) = compare([DESIRED], {"gumlet.x": ActualTopic(6, 3, None)})
    assert difference.kind == "unreadable"
    assert "DescribeConfigs" in difference.fix


def test_compaction_blocks_and_retention_does_not() -> None:
    """Compaction deletes events and rejects dead letters without a key; another retention endangers no event."""
    desired = DesiredTopic("gumlet.dead-letter", 1, -1, {"cleanup.policy": "delete", "retention.ms": "1000"})
    actual = ActualTopic(1, 1, {"cleanup.policy": "compact", "retention.ms": "7"})
    differences = compare([desired], {"gumlet.dead-letter": actual})
    assert {difference.subject: difference.blocking for difference in differences} == {
        "cleanup.policy": True,
        "retention.ms": False,
    }


def test_a_record_limit_below_the_largest_dead_letter_is_reported() -> None:
    """A body of the maximum size must fit into a dead letter: base64 and the record's other fields."""
    desired = DesiredTopic("gumlet.dead-letter", 1, -1, {}, max_record_bytes(524_288))
    (difference,) = compare([desired], {"gumlet.dead-letter": ActualTopic(1, 1, {"max.message.bytes": "700000"})})
    assert (difference.subject, difference.desired, difference.actual) == ("max.message.bytes", "703147", "700000")
    assert "BRIDGE_MAX_BODY_BYTES to 521928" in difference.fix
    (difference,) = compare([desired], {"gumlet.dead-letter": ActualTopic(1, 1, {"max.message.bytes": "300"})})
    assert "BRIDGE_MAX_BODY_BYTES" not in difference.fix  # no body would be left
    assert compare([desired], {"gumlet.dead-letter": ActualTopic(1, 1, {"max.message.bytes": "1048588"})}) == []


@pytest.mark.parametrize(
    ("config", "accepted"),
    [
        ({}, (0, 2**63 - 1 + 10_000)),
        ({"message.timestamp.before.max.ms": "3000", "message.timestamp.after.max.ms": "50"}, (7000, 10_050)),
        ({"message.timestamp.difference.max.ms": "3000"}, (7000, 13_000)),
        (
            {"message.timestamp.type": "LogAppendTime", "message.timestamp.before.max.ms": "3000"},
            (0, 2**63 - 1 + 10_000),
        ),
    ],
)
def test_accepted_times_follow_the_topics_limits(config: dict[str, str], accepted: tuple[int, int]) -> None:
    """The entries of Kafka before and after 3.6; a topic with the broker's time accepts every timestamp."""
    assert TopicLimits.of(config).accepted_times(10_000) == accepted
