"""The work for one delivery is bounded by the size of its body, and nothing that measures can cost an event."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bridge.contract.converters import MAX_CONVERTED_ITEMS
from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

CONTRACT = Contract.load()
READY = {"type": "video.status.ready", "asset_id": "a1"}


def count_calls(function: Callable[[], Any]) -> int:
    """Return how many calls of Python and C functions running `function` takes."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def normalize(**fields: Any) -> tuple[int, int, dict[str, Any]]:
    """Return the number of calls that a `ready` body takes, its size, and its record."""
    body = orjson.dumps(READY | fields)
    normalizer = Normalizer(CONTRACT, Drift())
    delivery = Delivery(1_700_000_000_000, "default", body)
    normalizer.event(delivery)
    calls = count_calls(lambda: normalizer.event(delivery))
    return calls, len(body), orjson.loads(normalizer.event(delivery).value)


def test_a_violation_is_found_without_looking_at_the_others() -> None:
    """Of 240,000 violations one is reported; the others cost nothing."""
    topic = CONTRACT.topics["video.status.ready"]
    record = READY | {"tags": [], "warnings": [1] * 240_000}
    assert topic.first_violation(record) == ("/warnings/0", 'the value is not of type "object"')
    assert count_calls(lambda: topic.first_violation(record)) < 100


@pytest.mark.parametrize(
    "fields",
    [
        {"warning": [1] * 240_000},
        {"tag": [[]] * 150_000},
        {"output": {"thumbnail_url": [{}] * 150_000}},
        {"input": {"transformations": {"thumbnail": [{}] * 150_000}}},
        {"input": {"transformations": {"resolution": [1.5] * 100_000}}},
        {"progress": "1" * 480_000},
        {"created_at": "1" * 480_000},
        {"input": {"fps": "9" * 480_000}},
    ],
    ids=lambda fields: orjson.dumps(fields)[:40].decode(),
)
def test_a_large_body_of_unusable_values_takes_few_calls(fields: dict[str, Any]) -> None:
    """What cannot be normalized is not walked through: it is in `additional` as delivered."""
    calls, size, record = normalize(**fields)
    assert size > 300_000
    assert calls < size / 100
    assert record["type"] == "video.status.ready"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": dict.fromkeys(map(str, range(40_000)), 1)},
        {"warning": [{}] * 100_000},
        {"warning": [{"code": 1}] * 40_000},
        {"warning": [{"x": 1}] * 50_000},
        {"warning": ["w"] * 100_000},
        {"tag": [1] * 200_000},
    ],
    ids=lambda fields: orjson.dumps(fields)[:40].decode(),
)
def test_the_work_is_proportional_to_the_body(fields: dict[str, Any]) -> None:
    """A few calls for each item of a list, and no more."""
    calls, size, _ = normalize(**fields)
    assert calls < 2 * size


@pytest.mark.parametrize("item", [{}, "", {"code": "1"}, {"x": 1}])
def test_a_long_list_of_objects_is_not_normalized_and_does_not_grow(item: Any) -> None:
    """More warnings than any asset has are in `additional` as delivered; a list of the largest size is normalized."""
    calls, size, record = normalize(warning=[item] * (MAX_CONVERTED_ITEMS + 1))
    assert calls < 200
    assert len(orjson.dumps(record)) < size + 100
    assert record["additional"] == {"warning": [item] * (MAX_CONVERTED_ITEMS + 1)}
    assert len(normalize(warning=[item] * MAX_CONVERTED_ITEMS)[2]["warnings"]) == MAX_CONVERTED_ITEMS


def test_a_long_list_that_needs_no_conversion_is_normalized() -> None:
    """A list of strings has the contract's form whatever its length; numbers among many strings do not."""
    strings = ["x"] * (MAX_CONVERTED_ITEMS + 1)
    assert normalize(tag=strings)[2]["tags"] == strings
    assert normalize(tag=[*strings, 1])[2]["additional"] == {"tag": [*strings, 1]}


class BrokenDrift(Drift):
    """Raises whatever is reported to it."""

    def record_new_type(self, event_type: str | None) -> None:
        """Raise."""
        raise RuntimeError(event_type)

    def record_rest(self, event_type: str, mapping: Any, rest: dict[str, Any]) -> None:
        """Raise."""
        raise RuntimeError(event_type, mapping, rest)


@pytest.mark.parametrize("body", [READY | {"new": 1}, READY | {"progress": "?"}, {"type": "new"}])
def test_an_exception_while_measuring_costs_no_event(body: dict[str, Any]) -> None:
    """The event is the same as without drift."""
    delivery = Delivery(0, "default", orjson.dumps(body))
    assert Normalizer(CONTRACT, BrokenDrift()).event(delivery) == Normalizer(CONTRACT).event(delivery)
