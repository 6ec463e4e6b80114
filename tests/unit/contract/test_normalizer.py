"""The normalizer: the contract's examples, unknown types and fields, keys, and ids."""

from __future__ import annotations

import base64
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
from bridge.event import canonical, content_id
from tests.unit.contract.records import CONTRACT, EXAMPLES, NORMALIZER, delivery, event, record, value


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
