"""Simulated assets: reproducible, realistic, and within the contract."""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import Any

import orjson
import pytest

from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.devtools import simulated_assets as simulation
from bridge.devtools.simulated_assets import READY_BYTES, TYPES, Asset, generate_assets
from bridge.event import Delivery, canonical

ASSETS = 400


@pytest.fixture(scope="module")
def assets() -> list[Asset]:
    """Return as many assets as show everything that a simulated one can be."""
    return list(islice(generate_assets(20), ASSETS))


@pytest.fixture(scope="module")
def bodies(assets: list[Asset]) -> list[dict[str, Any]]:
    """Return every body that these assets send."""
    return [body for asset in assets for _, body in asset.events()]


def _sent(seed: int) -> list[bytes]:
    return [orjson.dumps(body) for asset in islice(generate_assets(seed), 20) for _, body in asset.events()]


def _shapes(bodies: list[dict[str, Any]], *path: str) -> set[type]:
    found = set()
    for body in bodies:
        value: Any = body
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found.add(type(value))
    return found


def test_same_seed_gives_the_same_bytes() -> None:
    """A seed gives the same bytes every time, another seed other bytes."""
    assert _sent(7) == _sent(7)
    assert not set(_sent(7)) & set(_sent(8))


def test_assets_do_not_depend_on_each_other() -> None:
    """Asset number n of a seed is the same whether or not earlier ones were generated."""
    fifth = next(islice(generate_assets(3), 5, None))
    assert list(fifth.events()) == list(Asset(3, 5).events())
    assert list(fifth.events()) == list(fifth.events())


def test_every_type_occurs(assets: list[Asset], bodies: list[dict[str, Any]]) -> None:
    """All types of a video's lifecycle are sent, each in its body."""
    assert {body["type"] for body in bodies} == TYPES
    assert all(tuple(t for t, _ in asset.events()) == asset.types for asset in assets)
    assert all(body["type"] == event_type for asset in assets for event_type, body in asset.events())


def test_asset_ids_look_like_gumlets(assets: list[Asset]) -> None:
    """Every asset has a unique id of 24 hexadecimal digits."""
    assert all(re.fullmatch("[0-9a-f]{24}", asset.asset_id) for asset in assets)
    assert len({asset.asset_id for asset in assets}) == ASSETS


def test_events_follow_the_lifecycle(assets: list[Asset]) -> None:
    """Created is first, stream_ready before ready, repackaged after it, nothing after errored or deleted."""
    before = {
        simulation.DOWNLOADED: {simulation.CREATED},
        simulation.STREAM_READY: {simulation.DOWNLOADED},
        simulation.OPTIMIZED: {simulation.STREAM_READY},
        simulation.READY: {simulation.STREAM_READY, simulation.OPTIMIZED},
        simulation.REPACKAGED: {simulation.READY, simulation.REPACKAGED},
        simulation.DELETED: {simulation.READY, simulation.REPACKAGED},
        simulation.ERRORED: {simulation.CREATED, simulation.DOWNLOADED},
    }
    for asset in assets:
        assert asset.types[0] == simulation.CREATED
        assert all(former in before[latter] for former, latter in pairwise(asset.types))


def test_progress_never_falls(assets: list[Asset]) -> None:
    """An asset's progress rises to 100 at ready; some assets have none, as in the SDK."""
    without = 0
    for asset in assets:
        values = [body["progress"] for _, body in asset.events() if "progress" in body]
        assert values == sorted(values)
        assert not values or (values[-1] == 100) == (simulation.READY in asset.types)
        without += not values
    assert 0 < without < ASSETS


@pytest.mark.parametrize(
    ("path", "shapes"),
    [
        (("tag",), {str, list}),
        (("input", "fps"), {str, int, float}),
        (("input", "duration"), {int, float}),
        (("input", "transformations", "audio_codec"), {str, list}),
        (("input", "transformations", "video_codec"), {str, list}),
        (("warning",), {dict, list}),
    ],
)
def test_both_forms_are_sent_where_document_and_sdk_differ(
    bodies: list[dict[str, Any]], path: tuple[str, ...], shapes: set[type]
) -> None:
    """Where Gumlet's document and its SDK differ, both JSON types occur."""
    assert _shapes(bodies, *path) == shapes


def test_bodies_survive_a_json_round_trip(bodies: list[dict[str, Any]]) -> None:
    """A parsed body has the same canonical form, and so the same id, as the generated one."""
    assert all(canonical(orjson.loads(orjson.dumps(body))) == canonical(body) for body in bodies)


def test_ready_bodies_have_a_realistic_size(bodies: list[dict[str, Any]]) -> None:
    """A ready body without its warning is as large as real ones."""
    ready = [body for body in bodies if body["type"] == simulation.READY]
    sizes = [len(orjson.dumps({k: v for k, v in body.items() if k != "warning"})) for body in ready]
    assert READY_BYTES[0] <= min(sizes)
    assert max(sizes) <= READY_BYTES[1]
    assert max(sizes) - min(sizes) > 200


def test_low_resolution_has_a_warning(bodies: list[dict[str, Any]]) -> None:
    """Exactly the finished assets with a frame below Gumlet's minimum have a warning."""
    for body in bodies:
        if body["type"] in (simulation.READY, simulation.REPACKAGED):
            least = 145 if body["output"]["format"] == "mp4" else 240
            assert ("warning" in body) == (body["input"]["height"] < least)
        else:
            assert "warning" not in body


def test_errored_and_deleted_bodies_have_no_output(bodies: list[dict[str, Any]]) -> None:
    """An errored asset has an error, an errored or deleted one no output."""
    for body in bodies:
        assert ("error" in body) == (body["type"] == simulation.ERRORED)
        assert ("output" in body) == (body["type"] not in (simulation.ERRORED, simulation.DELETED))


def test_measurements_are_sent_after_the_download(bodies: list[dict[str, Any]]) -> None:
    """Properties that are known only after the download are not sent before it."""
    assert all("duration" not in body["input"] for body in bodies if body["type"] == simulation.CREATED)
    assert all("duration" in body["input"] for body in bodies if body["type"] == simulation.DOWNLOADED)
    assert {"duration" in body["input"] for body in bodies if body["type"] == simulation.ERRORED} == {
        True,
        False,
    }


def test_repackaged_bodies_are_similar_or_equal(assets: list[Asset]) -> None:
    """An asset is repackaged several times; some bodies are nearly equal, some byte-identical."""
    same, nearly = 0, 0
    for asset in assets:
        sent = [body for event_type, body in asset.events() if event_type == simulation.REPACKAGED]
        for former, latter in pairwise(sent):
            same += orjson.dumps(former) == orjson.dumps(latter)
            former_storage, latter_storage = (each["output"]["storage_bytes"] for each in (former, latter))
            nearly += former_storage < latter_storage
            assert former | {"output": latter["output"]} == latter
    assert same
    assert nearly


def test_metadata_is_any_json(bodies: list[dict[str, Any]]) -> None:
    """User metadata is any JSON: empty, nested, not ASCII, null."""
    metadata = [body["input"]["metadata"] for body in bodies]
    assert {} in metadata
    assert any(None in each.values() for each in metadata)
    assert any(isinstance(value, dict) for each in metadata for value in each.values())
    assert any(not key.isascii() for each in metadata for key in each)


def test_simulated_bodies_are_within_the_contract(assets: list[Asset]) -> None:
    """Every body becomes an event of its own type, and none causes a schema drift warning."""
    drift = Drift()
    normalizer = Normalizer(Contract.load(), drift)
    for asset in assets:
        for event_type, body in asset.events():
            assert normalizer.event(Delivery(0, "default", orjson.dumps(body))).event_type == event_type
    assert drift.counts == {}
