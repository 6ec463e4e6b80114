"""The value of each property, from every form in which Gumlet delivers it."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from tests.unit.contract.records import ABSENT, CONTRACT, NORMALIZER, additional, delivery, event, record, value


@pytest.mark.parametrize(
    ("delivered", "tags"),
    [
        (ABSENT, []),
        (None, []),
        ("", []),
        ([], []),
        ("Gumlet", ["Gumlet"]),
        (["eu", "nightly"], ["eu", "nightly"]),
        (7, ["7"]),
        (["a", 7], ["a", "7"]),
    ],
)
def test_tags_are_always_a_list_of_strings(delivered: Any, tags: list[str]) -> None:
    """One tag, a list, an integer or nothing: the record has a list."""
    assert record(**({} if delivered is ABSENT else {"tag": delivered}))["tags"] == tags


@pytest.mark.parametrize(
    ("delivered", "warnings"),
    [
        (ABSENT, []),
        (None, []),
        ({}, []),
        ([], []),
        ("", []),
        ({"code": "W", "message": "m"}, [{"code": "W", "message": "m"}]),
        ([{"code": "W"}, {"message": "m"}], [{"code": "W"}, {"message": "m"}]),
        ("plain text", [{"message": "plain text"}]),
        ({"code": 3, "message": None}, [{"code": "3"}]),
    ],
)
def test_warnings_are_always_a_list_of_objects(delivered: Any, warnings: list[Any]) -> None:
    """One warning, a list, a text or nothing: the record has a list."""
    assert record(**({} if delivered is ABSENT else {"warning": delivered}))["warnings"] == warnings


@pytest.mark.parametrize(
    "delivered",
    [
        1607502048309,
        1607502048309.0,
        1607502048309.9,
        1607502048.309,
        "1607502048.309",
        "1607502048309",
        "2020-12-09T08:20:48.309Z",
        "2020-12-09T08:20:48.309999+00:00",
        "2020-12-09T13:50:48.309+05:30",
    ],
)
def test_a_time_is_rfc_3339_in_utc_with_milliseconds(delivered: Any) -> None:
    """Milliseconds or seconds in any form, and ISO text with any offset, become the same string."""
    assert record(created_at=delivered)["created_at"] == "2020-12-09T08:20:48.309Z"


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.000Z"),
        (1607502048, "2020-12-09T08:20:48.000Z"),
        (99_999_999_999, "5138-11-16T09:46:39.000Z"),
        (100_000_000_000, "1973-03-03T09:46:40.000Z"),
        (-62135596800000, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_number_is_a_time_in_seconds_or_milliseconds(delivered: int, expected: str) -> None:
    """A number below 100,000,000,000 is seconds, a larger one milliseconds; both count back from 1970 if negative."""
    assert record(created_at=delivered)["created_at"] == expected


@pytest.mark.parametrize(
    "delivered",
    [
        "2020-12-09T08:20:48.309",
        "2020-13-45T99:99:99.000Z",
        "2021-02-30T00:00:00.000Z",
        "2016-12-31T23:59:60.000Z",
        "0000-01-01T00:00:00.000Z",
        "0001-01-01T00:00:00+05:30",
        "9999-12-31T23:59:59-05:30",
        "2020",
        "yesterday",
        "",
        True,
        [1607502048309],
        10**17,
        1e300,
        "9" * 5000,
    ],
)
def test_an_unusable_time_is_in_additional(delivered: Any) -> None:
    """A time that does not exist, has no offset or is out of range costs its property, not the event."""
    found = record(created_at=delivered)
    assert found["additional"] == {"created_at": delivered}
    assert "created_at" not in found


@pytest.mark.parametrize(
    ("delivered", "frame_rate", "fps"),
    [
        ("30000/1001", (30000, 1001), 30000 / 1001),
        ("50/2", (25, 1), 25),
        (25, (25, 1), 25),
        ("25", (25, 1), 25),
        (25.0, (25, 1), 25),
        (29.97, (2997, 100), 29.97),
        ("29.97", (2997, 100), 29.97),
        (23.976023976023978, (24000, 1001), 23.976023976023978),
        ("0/1", (0, 1), 0),
        (0, (0, 1), 0),
    ],
)
def test_a_frame_rate_is_a_ratio_and_a_number(delivered: Any, frame_rate: tuple[int, int], fps: float) -> None:
    """A ratio in text and a number both give the exact ratio in lowest terms and the number."""
    found = record(input={"fps": delivered})["input"]
    assert found == {
        "frame_rate": {"numerator": frame_rate[0], "denominator": frame_rate[1]},
        "fps": fps,
    }
    assert type(found["fps"]) is type(fps)


@pytest.mark.parametrize(
    "delivered", ["0/0", "30/0", "", "fast", "-1/2", -25, "1" * 50, True, [25], {"a": 1}, 1e300, 2**60]
)
def test_an_unusable_frame_rate_is_in_additional(delivered: Any) -> None:
    """A ratio over zero, words, negative rates and other kinds of value cost their property, not the event."""
    assert record(input={"fps": delivered}) | {"input": {}} == {
        "type": "video.status.ready",
        "asset_id": "a1",
        "tags": [],
        "warnings": [],
        "input": {},
        "additional": {"input": {"fps": delivered}},
    }


def test_a_number_that_is_not_a_simple_ratio_has_no_frame_rate() -> None:
    """No ratio is invented: only the number is published."""
    assert record(input={"fps": 29.123456789012345})["input"] == {"fps": 29.123456789012345}


@pytest.mark.parametrize(("delivered", "expected"), [(1920, 1920), (1920.0, 1920), ("1920", 1920), ("1920.0", 1920)])
def test_an_integer_may_be_delivered_as_a_float_or_text(delivered: Any, expected: int) -> None:
    """Each form of an integer becomes an integer."""
    found = record(input={"width": delivered})["input"]["width_pixels"]
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    "delivered", [1.5, "1.5", "", "1 000", "0x10", "٣", "NaN", -1, True, 2**53, 2**70, 1e300, "9" * 30, [1]]
)
def test_a_value_that_is_not_a_whole_number_is_in_additional(delivered: Any) -> None:
    """Fractions, other notations, bools, and numbers that a float cannot hold exactly cost their property only."""
    body = {"type": "video.status.ready", "asset_id": "a1", "input": {"size": 0}, "output": {"storage_bytes": 0}}
    text = orjson.dumps(body).decode()
    size = str(delivered) if isinstance(delivered, int) and delivered > 2**64 else orjson.dumps(delivered).decode()
    result = NORMALIZER.event(delivery(re.sub(r":0\b", f":{size}", text).encode()))
    assert (result.event_type, result.key) == ("video.status.ready", b"a1")
    kept = orjson.loads(size)
    assert value(result)["additional"] == {"input": {"size": kept}, "output": {"storage_bytes": kept}}


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [(37, 37), (37.5, 37.5), ("37", 37), ("3.75e1", 37.5), (0, 0), (100, 100), (100.0, 100.0)],
)
def test_a_number_may_be_delivered_as_text(delivered: Any, expected: float) -> None:
    """Progress is a number in percent, however it was written."""
    assert record(progress=delivered)["progress_percent"] == expected


@pytest.mark.parametrize("delivered", [True, "37%", "", "inf", 101, 100.01, -1, -0.04, [37], {}, "1" * 5000])
def test_an_unusable_percentage_is_in_additional(delivered: Any) -> None:
    """A bool, text that is not a number, and a percentage outside 0 to 100 cost their property, not the event."""
    assert additional(progress=delivered) == {"progress": delivered}


@pytest.mark.parametrize("delivered", [-0.04, "N/A", "", False, "20.320000000000000001"])
def test_an_unusable_duration_is_in_additional(delivered: Any) -> None:
    """A negative length, text that is not a number, and text with more digits than a float holds."""
    assert additional(input={"duration": delivered}) == {"input": {"duration": delivered}}


def test_ids_may_be_delivered_as_integers() -> None:
    """A number where the contract has a string becomes its string, in the key too."""
    result = event(asset_id=42, input={"profile_id": 7, "vimeo_id": 76979871})
    assert result.key == b"42"
    assert value(result)["asset_id"] == "42"
    assert value(result)["input"] == {"profile_id": "7", "vimeo_id": "76979871"}


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [("aac", ["aac"]), (["aac", "opus"], ["aac", "opus"]), ("", []), (240, ["240"]), ([240], ["240"])],
)
def test_one_codec_or_a_list_ends_in_a_list(delivered: Any, expected: list[str]) -> None:
    """Codecs and resolutions are lists of strings."""
    found = record(input={"transformations": dict.fromkeys(("audio_codec", "video_codec", "resolution"), delivered)})
    assert found["input"]["transformations"] == dict.fromkeys(("audio_codecs", "video_codecs", "resolutions"), expected)


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [
        ("auto", ["auto"]),
        (["auto", 1.5, {"t": 1}], ["auto", 1.5, {"t": 1}]),
        ({"t": 1}, [{"t": 1}]),
        ("", []),
    ],
)
def test_thumbnails_are_a_list_of_anything(delivered: Any, expected: list[Any]) -> None:
    """One thumbnail becomes a list; its items are as delivered."""
    found = record(input={"transformations": {"thumbnail": delivered}})
    assert found["input"]["transformations"] == {"thumbnails": expected}


@pytest.mark.parametrize(("delivered", "expected"), [(True, True), (False, False), ("true", True), ("false", False)])
def test_a_bool_may_be_delivered_as_text(delivered: Any, expected: bool) -> None:  # noqa: FBT001 - a value under test
    """`"true"` and `"false"` become bools."""
    found = record(input={"transformations": {"mp4_access": delivered}})
    assert found["input"]["transformations"]["mp4_access"] is expected


@pytest.mark.parametrize(
    ("delivered", "expected"), [([], {}), ({}, {}), ({"a": [None, {"b": ""}]}, {"a": [None, {"b": ""}]})]
)
def test_metadata_is_as_delivered(delivered: Any, expected: Any) -> None:
    """Metadata is as delivered, with its nulls; an empty list means an empty object."""
    assert record(input={"metadata": delivered})["input"]["metadata"] == expected


@pytest.mark.parametrize("field", ["input", "output", "error"])
def test_an_empty_list_stands_for_an_empty_object(field: str) -> None:
    """Some languages encode an empty map as a list."""
    assert record(**{field: []})[field] == {}


@pytest.mark.parametrize("metadata", ["x", 7, 1.5, True, ["a"], [None]])
def test_metadata_may_be_any_json(metadata: Any) -> None:
    """Metadata that is not an object is in `additional`, and is not schema drift."""
    drift = Drift()
    body = {"type": "video.status.ready", "asset_id": "a1", "input": {"metadata": metadata}}
    result = Normalizer(CONTRACT, drift).event(delivery(body))
    assert value(result)["additional"] == {"input": {"metadata": metadata}}
    assert drift.counts == {}
