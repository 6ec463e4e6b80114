"""The comparison of topics is pure: what is wanted, what is there, a list of differences."""

from __future__ import annotations

import pytest

from bridge.kafka.topics import DesiredTopic, Found, _refused, compare

WANTED = DesiredTopic("gumlet.x", 6, 3, {"cleanup.policy": "compact,delete", "retention.ms": "1000"})
FOUND = Found(6, 3, {"cleanup.policy": "delete,compact", "retention.ms": "1000", "segment.bytes": "7"})


def test_same() -> None:
    """A topic that is as it should be gives no finding; lists have no order, other entries do not matter."""
    assert compare([WANTED], {"gumlet.x": FOUND, "another": FOUND}) == []


def test_missing() -> None:
    """A topic that Kafka does not show is one finding, however much is wanted of it."""
    (finding,) = compare([WANTED], {})
    assert (finding.kind, finding.topic) == ("missing", "gumlet.x")
    assert "topics apply" in finding.fix


@pytest.mark.parametrize(("there", "word"), [(3, "--grow"), (12, "cannot take partitions away")])
def test_partitions(there: int, word: str) -> None:
    """Too few can be grown, too many cannot be mended in Kafka: the fix says which."""
    (finding,) = compare([WANTED], {"gumlet.x": Found(there, 3, FOUND.config)})
    assert (finding.kind, finding.wanted, finding.found) == ("partitions", "6", str(there))
    assert word in finding.fix


def test_replication() -> None:
    """A replication factor that differs is told; it needs a tool of Kafka's own."""
    (finding,) = compare([WANTED], {"gumlet.x": Found(6, 1, FOUND.config)})
    assert (finding.kind, finding.wanted, finding.found) == ("replication", "3", "1")


def test_whatever_the_broker_says() -> None:
    """What the contract leaves to the broker never differs."""
    assert compare([DesiredTopic("gumlet.x", None, -1, {})], {"gumlet.x": Found(50, 2, None)}) == []


def test_config() -> None:
    """Each entry that differs or is not there is a finding of its own, and its line says all of it."""
    first, second = compare([WANTED], {"gumlet.x": Found(6, 3, {"cleanup.policy": "delete"})})
    assert (first.subject, second.subject) == ("cleanup.policy", "retention.ms")
    assert str(first) == (
        "gumlet.x: cleanup.policy is delete, not compact,delete. Fix: `gumlet-bridge topics apply --configure`"
    )
    assert second.found == "not set"


def test_config_hidden() -> None:
    """A configuration that may not be read is said to be so, not taken for right."""
    (finding,) = compare([WANTED], {"gumlet.x": Found(6, 3, None)})
    assert finding.kind == "unreadable"
    assert "DescribeConfigs" in finding.fix


@pytest.mark.parametrize(("code", "word"), [(29, "--operation Create"), (31, "Create"), (38, "REPLICATION_FACTOR")])
def test_refusal_says_how_to_mend_it(code: int, word: str) -> None:
    """Authorization and a replication factor that cannot be are told with what to do about them."""
    (refusal,) = _refused("gumlet.x", code, "no", "Create")
    assert word in refusal.fix
    assert "gumlet.x: Kafka refused: no" in str(refusal)


def test_passing_trouble_is_raised() -> None:
    """What a later attempt may mend is no refusal: the caller tries again."""
    with pytest.raises(RuntimeError, match="not now"):
        _refused("gumlet.x", 7, "not now", "Create")
