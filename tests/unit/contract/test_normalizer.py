"""The record of each delivered form, one conversion at a time; and the contract's examples."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.contract import mappings
from bridge.contract.drift import Drift
from bridge.contract.mappings import MAPPINGS
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract, schemas_directory
from bridge.errors import ContractError
from bridge.event import Delivery, Event, canonical, content_id

RECEIVED_MS = 1_700_000_000_000
CONTRACT = Contract.load()
NORMALIZER = Normalizer(CONTRACT)
EXAMPLES = schemas_directory() / "examples"
ABSENT = object()


def delivery(body: bytes | dict[str, Any], source: str = "default") -> Delivery:
    """Return a delivery of a body, or of an object's JSON."""
    return Delivery(RECEIVED_MS, source, body if isinstance(body, bytes) else orjson.dumps(body))


def event(**fields: Any) -> Event:
    """Return the event of a `ready` body with these fields."""
    return NORMALIZER.event(delivery({"type": "video.status.ready", "asset_id": "a1"} | fields))


def value(result: Event) -> dict[str, Any]:
    """Return the record's value."""
    read = orjson.loads(result.value)
    assert isinstance(read, dict)
    return read


def record(**fields: Any) -> dict[str, Any]:
    """Return the typed record of a `ready` body with these fields."""
    result = event(**fields)
    assert result.event_type == "video.status.ready", result
    return value(result)


def additional(**fields: Any) -> dict[str, Any]:
    """Return what is in `additional` of the typed record of a `ready` body with these fields."""
    found = record(**fields)["additional"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "path",
    sorted(EXAMPLES.rglob("*.in.json")),
    ids=lambda path: str(path.relative_to(EXAMPLES)).removesuffix(".in.json"),
)
def test_each_example_becomes_exactly_its_expected_record(path: Path) -> None:
    """A body becomes the record in its `.out.json` file on its folder's topic, or from `invalid/` a dead letter."""
    body = path.read_bytes()
    expected = orjson.loads(path.with_name(path.name.replace(".in.", ".out.")).read_bytes())
    result = NORMALIZER.event(delivery(body))
    found = value(result)
    if path.parent.name == "invalid":
        expected["body_base64"] = base64.b64encode(body).decode()
        assert (result.event_type, found["event_type"]) == ("dead-letter", path.parent.parent.name)
    else:
        assert result.event_type == path.parent.name
    if result.event_type == "dead-letter":
        # The wording is the libraries' own, and may change with their versions.
        assert found.pop("detail")
        assert expected.pop("detail")
        assert base64.b64decode(found["body_base64"]) == body
        assert found == expected
    else:
        assert result.value == canonical(expected)


def test_every_topic_has_examples() -> None:
    """Each topic has two examples or more, each with a required key an invalid one too; files come in pairs."""
    counts = {folder.name: len(list(folder.glob("*.in.json"))) for folder in EXAMPLES.iterdir()}
    assert counts.keys() == CONTRACT.topics.keys()
    assert min(counts.values()) >= 2
    assert {folder.parent.name for folder in EXAMPLES.glob("*/invalid")} == {
        name for name in MAPPINGS if not name.startswith("event.")
    }
    assert all(list(folder.glob("*.in.json")) for folder in EXAMPLES.glob("*/invalid"))
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.json")}
    assert {name.replace(".in.", ".out.") for name in files} | {
        name.replace(".out.", ".in.") for name in files
    } == files


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


def test_an_id_beyond_64_bits_is_a_dead_letter() -> None:
    """The parser has rounded it: publishing it would name another asset."""
    result = NORMALIZER.event(delivery(b'{"type":"video.status.ready","asset_id":123456789012345678901234567890}'))
    assert (value(result)["reason"], value(result)["pointer"], result.key) == (
        "schema_violation",
        "/asset_id",
        None,
    )


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


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"input": 5}, "/input"),
        ({"input": [1]}, "/input"),
        ({"output": "x"}, "/output"),
        ({"error": 5}, "/error"),
        ({"error": {"code": {}}}, "/error/code"),
        ({"title": True}, "/title"),
        ({"title": {"a": 1}}, "/title"),
        ({"tag": {"a": 1}}, "/tag"),
        ({"tag": ["a", None]}, "/tag"),
        ({"warning": False}, "/warning"),
        ({"warning": [{"code": "a"}, 5]}, "/warning"),
        ({"warning": {"code": []}}, "/warning/code"),
        ({"input": {"size": "big"}}, "/input/size"),
        ({"input": {"transformations": {"audio_codec": ["aac", {}]}}}, "/input/transformations/audio_codec"),
        ({"input": {"transformations": {"mp4_access": 1}}}, "/input/transformations/mp4_access"),
        ({"output": {"thumbnail_url": ["x", 1.5]}}, "/output/thumbnail_url"),
    ],
)
def test_a_value_without_a_form_costs_its_property_only(fields: dict[str, Any], path: str) -> None:
    """The event is published, the value is in `additional` as delivered, and its path is reported as drift."""
    drift = Drift()
    result = Normalizer(CONTRACT, drift).event(delivery({"type": "video.status.ready", "asset_id": "a1"} | fields))
    assert (result.event_type, result.key) == ("video.status.ready", b"a1")
    assert value(result)["additional"] == fields
    assert set(drift.counts) == {("changed", "video.status.ready", path)}


def test_the_items_of_a_list_are_judged_one_by_one() -> None:
    """An unusable property of one warning is under its index; the other properties are published."""
    found = record(warning=[{"code": "a"}, {"code": "b", "message": []}])
    assert found["warnings"] == [{"code": "a"}, {"code": "b"}]
    assert found["additional"] == {"warning": {"1": {"message": []}}}


@pytest.mark.parametrize("asset_id", ["", None, [], {}, True, 1.5, "a" * 257, "ä" * 280_000])
def test_an_unusable_key_is_a_dead_letter_without_a_key(asset_id: Any) -> None:
    """The reason points to the key; nothing of the body is in the detail, which is logged."""
    result = event(asset_id=asset_id)
    assert (result.event_type, result.key) == ("dead-letter", None)
    assert (value(result)["reason"], value(result)["pointer"]) == ("schema_violation", "/asset_id")
    assert "1 to 256 characters" in value(result)["detail"]


def test_a_schema_that_is_stricter_than_its_mapping_costs_the_event(tmp_path: Path) -> None:
    """The record is validated before it is sent: the dead letter names the place in the record."""
    directory = Path(shutil.copytree(schemas_directory(), tmp_path / "schemas"))
    path = directory / "video.status.ready.json"
    schema = orjson.loads(path.read_bytes())
    schema["properties"]["title"] = {"type": "string", "maxLength": 5}
    path.write_bytes(orjson.dumps(schema))
    strict = Normalizer(Contract.load(directory=directory))
    found = value(strict.event(delivery({"type": "video.status.ready", "asset_id": "a1", "title": "too long"})))
    assert (found["reason"], found["asset_id"], "pointer" in found) == ("schema_violation", "a1", False)
    assert found["detail"] == "the record violates its schema at /title: the value is longer than 5 characters"


def test_the_longest_key() -> None:
    """256 characters are a key; of a type without a topic a longer id is not."""
    assert event(asset_id="a" * 256).key == b"a" * 256
    assert NORMALIZER.event(delivery({"type": "new", "asset_id": "a" * 257})).key is None


@pytest.mark.parametrize("asset_id", ["", [], {"id": 1}, True, 1.5, "a" * 257])
def test_a_product_event_with_an_unusable_asset_id_has_no_key(asset_id: Any) -> None:
    """Gumlet promises nothing but the type: the value is in `additional`, and is not drift."""
    drift = Drift()
    result = Normalizer(CONTRACT, drift).event(delivery({"type": "event.comment.all", "asset_id": asset_id}))
    assert (result.event_type, result.key) == ("event.comment.all", None)
    assert value(result) == {"type": "event.comment.all", "additional": {"asset_id": asset_id}}
    assert drift.counts == {}


def test_null_is_the_same_as_absent() -> None:
    """Every known field may be null, and is then not in the record."""
    names = (
        "status",
        "progress",
        "created_at",
        "tag",
        "title",
        "description",
        "input",
        "output",
        "error",
        "warning",
    )
    assert record(**dict.fromkeys(names)) == record()


def test_unknown_fields_are_in_additional_nested_as_delivered() -> None:
    """Each unknown field, null too, is in `additional` under the names that lead to it in the body."""
    found = record(
        foo=None,
        additional={"x": 1},
        input={"bar": [1], "transformations": {"drm": {}}},
        output={"subtitles": []},
        error={"param": "p"},
        warning=[{"code": "a"}, {"x": 1}],
    )
    assert found["additional"] == {
        "foo": None,
        "additional": {"x": 1},
        "input": {"bar": [1], "transformations": {"drm": {}}},
        "output": {"subtitles": []},
        "error": {"param": "p"},
        "warning": {"1": {"x": 1}},
    }


def test_the_rest_of_a_single_warning_has_no_index() -> None:
    """A warning that came as one object keeps that nesting."""
    assert record(warning={"code": "a", "x": 1})["additional"] == {"warning": {"x": 1}}


@pytest.mark.parametrize("field", ["event", "event_type"])
def test_the_type_may_have_another_name(field: str) -> None:
    """`event` and `event_type` say the type where `type` is absent or null, and are then no rest."""
    for body in ({field: "video.status.ready"}, {"type": None, field: "video.status.ready"}):
        found = value(NORMALIZER.event(delivery({"asset_id": "a1"} | body)))
        assert found == {"type": "video.status.ready", "asset_id": "a1", "tags": [], "warnings": []}


def test_another_type_field_is_an_ordinary_field_if_type_is_present() -> None:
    """`type` counts before the others, which are kept."""
    found = record(event="video.status.deleted")
    assert (found["type"], found["additional"]) == ("video.status.ready", {"event": "video.status.deleted"})


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"type": "new", "asset_id": "a1"}, b"a1"),
        ({"type": "new", "live_asset_id": "l1"}, b"l1"),
        ({"type": "new", "asset_id": "", "live_asset_id": 12}, b"12"),
        ({"type": "new", "asset_id": ["a1"]}, None),
        ({"type": "new", "asset_id": True}, None),
        ({"asset_id": "a1"}, b"a1"),
        ({"type": 7}, None),
        ({"type": ""}, None),
        ({"type": "dead-letter"}, None),
        ({"type": "unrecognized"}, None),
        ({}, None),
    ],
)
def test_an_object_of_unknown_type_is_published_as_delivered(body: dict[str, Any], key: bytes | None) -> None:
    """An unknown or missing type, the names of the bridge's own topics too, goes to `unrecognized`."""
    result = NORMALIZER.event(delivery(body))
    assert (result.event_type, result.topic, result.key) == ("unrecognized", "gumlet.unrecognized", key)
    expected = {"event": body} | ({"type": body["type"]} if isinstance(body.get("type"), str) else {})
    assert value(result) == expected
    assert CONTRACT.unrecognized.first_violation(value(result)) is None


def nesting(levels: int) -> str:
    """Return a list in a list, and so on."""
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b"null", "not_an_object"),
        (b"[]", "not_an_object"),
        (b'"video.status.ready"', "not_an_object"),
        (f'{{"a":{nesting(300)}}}'.encode(), "nesting_too_deep"),
        (f'{{"a":{nesting(2000)}}}'.encode(), "nesting_too_deep"),
        (f'{{"type":"video.status.ready","asset_id":"a","x":{nesting(253)}}}'.encode(), "nesting_too_deep"),
    ],
)
def test_a_body_that_is_not_an_event_is_a_dead_letter_with_its_bytes(body: bytes, reason: str) -> None:
    """The raw body and the reason are published, in a record of the contract."""
    result = NORMALIZER.event(delivery(body, "main"))
    found = value(result)
    assert CONTRACT.dead_letter.first_violation(found) is None
    assert base64.b64decode(found["body_base64"]) == body
    assert (result.topic, found["reason"], found["source"]) == ("gumlet.dead-letter", reason, "main")
    assert found["received_at"] == "2023-11-14T22:13:20.000Z"


def test_the_deepest_body_that_can_be_encoded_is_published() -> None:
    """Below the encoder's limit a deep body is a record as any other."""
    body = f'{{"type":"video.status.ready","asset_id":"a","x":{nesting(250)}}}'.encode()
    assert NORMALIZER.event(delivery(body)).event_type == "video.status.ready"


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"video.status.ready","asset_id":"a1"}',
        b'{"type":"new", "live_asset_id":"l1"}',
        b'{"type":"video.status.ready","asset_id":"a1","progress":true}',
        b'{"type":"video.status.ready","asset_id":"a1","x":123456789012345678901234567890}',
        b'\xef\xbb\xbf{"type":"video.status.ready","asset_id":"a1"}',
        b" [1]",
        b" null",
        b"no JSON",
        f'{{"a":{nesting(300)}}}'.encode(),
    ],
)
def test_a_dead_letter_has_the_id_and_the_key_of_its_record(body: bytes) -> None:
    """A record that Kafka rejects has the same id as a dead letter: it is the same event."""
    result = NORMALIZER.event(delivery(body, "main"))
    dead = NORMALIZER.dead_letter(delivery(body, "main"), "record_too_large", "at most 1 MiB", None)
    assert (dead.id, dead.key) == (result.id, result.key)
    assert (value(dead)["reason"], value(dead)["detail"]) == ("record_too_large", "at most 1 MiB")
    assert "pointer" not in value(dead)


def test_the_id_is_derived_from_the_content_and_the_source() -> None:
    """White space, a byte order mark and the order of keys are not content; another source is another event."""
    result = NORMALIZER.event(delivery(b'{"type":"video.status.ready","asset_id":"a1"}'))
    spaced = NORMALIZER.event(delivery(b' { "asset_id" : "a1", "type":"video.status.ready" }'))
    elsewhere = NORMALIZER.event(delivery(b'{"type":"video.status.ready","asset_id":"a1"}', "other"))
    assert (spaced.id, spaced.value) == (result.id, result.value)
    assert elsewhere.id != result.id
    assert NORMALIZER.event(delivery(b"no JSON")).id == content_id("default", b"no JSON")
    marked = NORMALIZER.event(delivery(b'\xef\xbb\xbf{"type":"video.status.ready","asset_id":"a1"}'))
    assert (marked.id, marked.value) == (result.id, result.value)


def test_a_dead_letter_is_little_larger_than_its_body() -> None:
    """Long types are truncated and long ids omitted, so that a dead letter is not too large itself."""
    body = orjson.dumps({"type": "t" * 100_000, "asset_id": "a" * 100_000})
    dead = NORMALIZER.dead_letter(delivery(body), "record_too_large", "d" * 100_000, "/" + "p" * 100_000)
    assert len(dead.value) < len(base64.b64encode(body)) + 3000
    assert value(dead)["event_type"] == "t" * 256
    assert "asset_id" not in value(dead)
    assert dead.key is None


def test_a_dead_letter_without_its_body_says_which_body_it_was() -> None:
    """The size, the SHA-256 and the first bytes replace the body; id and key stay; the record is small and valid."""
    body = orjson.dumps({"type": "video.status.ready", "asset_id": "a1", "x": "y" * 400_000})
    dead = NORMALIZER.dead_letter_without_body(delivery(body), "record_too_large", "MessageSizeTooLargeError")
    found = value(dead)
    assert CONTRACT.dead_letter.first_violation(found) is None
    assert (found["body_base64"], found["body_bytes"]) == ("", len(body))
    assert found["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert base64.b64decode(found["body_prefix_base64"]) == body[:512]
    assert len(dead.value) < 2000
    whole = NORMALIZER.dead_letter(delivery(body), "record_too_large", "MessageSizeTooLargeError")
    assert (dead.id, dead.key, dead.topic) == (whole.id, whole.key, whole.topic)


@pytest.mark.parametrize("received_ms", [-(2**63), -1, 0, 2**63])
@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5000, b'{"type":"\xff"}'])
def test_a_dead_letter_exists_for_any_delivery(body: bytes, received_ms: int) -> None:
    """Neither the body nor a source, a span or a receipt time that cannot be encoded keeps a dead letter from Kafka."""
    strange = Delivery(received_ms, "\udcff", body, "\udcff")
    for dead in (
        NORMALIZER.dead_letter(strange, "internal_error", "\udcff", "/\udcff"),
        NORMALIZER.dead_letter_without_body(strange, "internal_error", "\udcff"),
        NORMALIZER.event(strange),
    ):
        assert CONTRACT.dead_letter.first_violation(value(dead)) is None
        assert dead.id


def test_a_fault_of_the_normalizer_is_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the normalizer becomes a dead letter, and blocks no other event."""

    def broken(_: Any) -> None:
        raise TypeError("s3cret")

    monkeypatch.setattr(NORMALIZER, "_event", broken)
    result = NORMALIZER.event(delivery({"type": "video.status.ready"}))
    assert (value(result)["reason"], value(result)["detail"]) == ("internal_error", "TypeError in the normalizer")


def test_a_type_without_a_schema_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping without a topic is found at start."""
    monkeypatch.setitem(MAPPINGS, "video.status.new", mappings.VIDEO)
    with pytest.raises(ContractError, match=r"video\.status\.new\.json is missing"):
        Normalizer(CONTRACT)


def test_a_schema_file_without_a_mapping_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic to which nothing can be published is found at start."""
    monkeypatch.delitem(MAPPINGS, "video.status.optimized")
    with pytest.raises(ContractError, match=r"video\.status\.optimized has no mapping"):
        Normalizer(CONTRACT)


@pytest.mark.parametrize("event_type", sorted(name for name in MAPPINGS if name.startswith("live.")))
def test_a_live_event_has_the_live_assets_key(event_type: str) -> None:
    """The key is `live_asset_id`, also where the body names another asset, and in a dead letter too."""
    body = {"type": event_type, "live_asset_id": "l1", "asset_id": "a1"}
    result = NORMALIZER.event(delivery(body))
    assert (result.event_type, result.key) == (event_type, b"l1")
    assert value(result)["additional"] == {"asset_id": "a1"}
    dead = NORMALIZER.event(delivery(body | {"live_asset_id": ["l1"]}))
    assert (dead.event_type, dead.key, value(dead)["pointer"]) == ("dead-letter", None, "/live_asset_id")


@pytest.mark.parametrize(("about", "key"), [({}, None), ({"asset_id": None}, None), ({"asset_id": 7}, b"7")])
def test_a_product_event_may_be_about_no_asset(about: dict[str, Any], key: bytes | None) -> None:
    """Without an asset there is no key and no subject; what Gumlet does not specify is as delivered."""
    result = NORMALIZER.event(delivery({"type": "event.playlist.created", "playlist_id": ["p"]} | about))
    assert (result.event_type, result.key) == ("event.playlist.created", key)
    assert value(result)["additional"] == {"playlist_id": ["p"]}
    assert ("ce_subject" in dict(result.headers)) == (key is not None)
