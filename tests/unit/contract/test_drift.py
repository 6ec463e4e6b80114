"""What the contract does not know: counted by type and place, logged once, bounded, and never with a value."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from bridge.contract.drift import MAX_CACHED_SOURCES, MAX_SIGHTINGS, Drift, DriftEntry
from bridge.contract.mappings import MAPPINGS
from bridge.contract.normalizer import Normalizer
from bridge.contract.references import bundled, read_files
from bridge.contract.schemas import Contract, schemas_directory
from bridge.devtools.drift_proposals import proposal
from bridge.event import Delivery
from bridge.telemetry.metrics import Metrics

CONTRACT = Contract.load()
FILES = read_files(schemas_directory())
READY = "video.status.ready"


def seen(*bodies: dict[str, Any]) -> tuple[Drift, set[DriftEntry]]:
    """Normalize bodies, and return the drift and what was seen."""
    drift = Drift()
    normalizer = Normalizer(CONTRACT, drift)
    for body in bodies:
        normalizer.event(Delivery(0, "default", orjson.dumps(body)))
    return drift, set(drift.counts)


def test_what_is_new_is_seen_with_its_place() -> None:
    """A type, a field, a form: each by event type and path, a list's items under one."""
    ready = {"type": "video.status.ready", "asset_id": "a"}
    _, found = seen(
        {"type": "video.status.new"},
        {"hello": 1},
        ready | {"views": 1, "input": {"color": {"space": "s3cret"}, "width": 1}},
        ready | {"warning": [{"code": "a"}, {"level": 1}]},
        ready | {"tag": ["a", {}]},
    )
    assert found == {
        ("new_type", "video.status.new", ""),
        ("new_type", "(none)", ""),
        ("new_field", "video.status.ready", "/views"),
        ("new_field", "video.status.ready", "/input/color/space"),
        ("new_field", "video.status.ready", "/warning/*/level"),
        ("changed", "video.status.ready", "/tag/*"),
    }


def test_what_gumlet_leaves_open_is_no_drift() -> None:
    """A product event may hold anything, and so may the user's metadata."""
    metadata = {"type": "video.status.ready", "asset_id": "a", "input": {"metadata": {"k": 1}}}
    assert seen({"type": "event.comment.all", "x": 1}, metadata)[1] == set()


def test_each_is_counted_and_logged_once() -> None:
    """The second sighting counts and is silent; no value is in the log."""
    body = {"type": "video.status.ready", "asset_id": "a", "views": "s3cret"}
    with capture_logs() as logs:
        drift, _ = seen(body, body)
    assert [(line["event"], line["path"]) for line in logs] == [("schema_drift", "/views")]
    (told,) = drift.report()
    assert (told["deliveries"], told["forms"], "s3cret" in str(logs)) == (2, ["string"], False)


def test_names_that_never_end_are_bounded() -> None:
    """Beyond the bounds everything is one: types, fields and their names cannot fill the memory or the metrics."""
    wide = {"type": "video.status.ready", "asset_id": "a"} | {f"n{n}": n for n in range(1000)}
    assert len(seen(wide)[1]) == MAX_CACHED_SOURCES
    with capture_logs() as logs:
        drift, found = seen(*({"type": f"t{n}" + "x" * 1000} for n in range(MAX_SIGHTINGS * 2)))
    assert len(found) == len(logs) == MAX_SIGHTINGS + 1
    assert max(len(name) for sighting in found for name in sighting) <= 64
    assert drift.report()[0]["deliveries"] == MAX_SIGHTINGS


def test_the_metrics_have_each_sighting() -> None:
    """Kind, event type and path are labels."""
    metrics = Metrics()
    drift, _ = seen({"type": "new"})
    metrics.register_drift(drift.counts.items)
    assert b'bridge_schema_drift_total{event_type="new",kind="new_type",path=""} 1.0' in metrics.render()


def proposed(kind: str, event_type: str, path: str = "", *forms: str) -> str:
    """Return a proposal as one text."""
    sighting = {"kind": kind, "event_type": event_type, "path": path, "forms": list(forms)}
    return "\n".join(proposal(sighting, FILES))


@pytest.mark.parametrize(
    ("event_type", "like", "table"),
    [
        ("video.status.archived", "video.status.created", "VIDEO"),
        ("live.video.status.paused", "live.video.status.created", "LIVE_VIDEO"),
        ("event.comment.liked", "event.comment.all", "PRODUCT"),
        ("payment.done", "event.playlist.created", "PRODUCT"),
    ],
)
def test_a_new_type_is_begun_from_the_one_most_like_it(event_type: str, like: str, table: str) -> None:
    """The proposal makes the schema file, and names the line of the mappings and the examples that go with it."""
    told = proposed("new_type", event_type)
    assert f"schemas/{like}.json > schemas/{event_type}.json" in told
    assert f'"{event_type}": {table},' in told
    assert f"schemas/examples/{event_type}/" in told


def test_a_stranger_s_text_becomes_no_command() -> None:
    """A type that could be no topic's name is never part of a line to be pasted."""
    for event_type in ("x; rm -rf /", "a/b", "$(true)", "(none)", "video.status.\x1b[2J"):
        assert event_type not in proposed("new_type", event_type)


@pytest.mark.parametrize(
    ("path", "forms", "where", "fragment", "rule"),
    [
        ("/views", ["integer"], f"schemas/{READY}.json, properties of the record", {"type": "integer"}, "integer"),
        ("/input/hdr", ["boolean"], "schemas/common.json, properties of /$defs/input", {"type": "boolean"}, "flag"),
        ("/warning/*/level", ["integer", "number"], "properties of /$defs/warning", {"type": "number"}, "number"),
        ("/output/mood", ["null", "string"], "properties of /$defs/output", {"type": "string"}, "text"),
    ],
)
def test_a_new_field_gets_its_place_type_and_rule(
    path: str, forms: list[str], where: str, fragment: dict[str, Any], rule: str
) -> None:
    """The property goes where its neighbours are described, shared definitions included, with the type that came."""
    told = proposed("new_field", READY, path, *forms)
    name = path.rpartition("/")[2]
    assert where in told
    (line,) = [line for line in told.splitlines() if line.startswith("  ")]
    found = orjson.loads(f"{{{line}}}")[name]
    assert fragment.items() <= found.items()
    assert found["x-source"] == path
    assert f'"{name}": to("{name}", {rule})' in told


def test_a_new_field_in_a_new_object() -> None:
    """The object is proposed around it, closed as the contract's objects are."""
    told = proposed("new_field", READY, "/input/color/space", "string")
    assert "properties of /$defs/input:" in told
    (line,) = [line for line in told.splitlines() if line.startswith("  ")]
    color = orjson.loads(f"{{{line}}}")["color"]
    assert (color["additionalProperties"], color["properties"]["space"]["type"]) == (False, "string")
    assert '"color": nested("color", Table({"space": to("space", text)}))' in told


def test_a_daemon_of_another_version() -> None:
    """What this contract has not is told, and ends."""
    assert "the daemon's own version" in proposed("new_field", "video.status.unheard_of", "/a")
    assert "gumlet-bridge dead-letter list" in proposed("changed", "video.status.unheard_of", "/a")


def test_a_changed_form_says_what_the_contract_has() -> None:
    """The place as it is now, how to see what came, and the two ways to go on."""
    told = proposed("changed", READY, "/output/storage_bytes")
    assert '/$defs/output/properties/storage_bytes is {"type":"integer"' in told
    assert f"gumlet-bridge dead-letter list --reason schema_violation --type {READY}" in told
    assert "raise x-topic.version" in told


@pytest.mark.parametrize("event_type", [name for name in MAPPINGS if "status" in name])
def test_each_source_in_the_contract_has_a_place(event_type: str) -> None:
    """Whichever of Gumlet's fields changes its form, the proposal finds where the contract describes it."""
    whole = orjson.dumps(bundled(FILES[f"{event_type}.json"], FILES)).decode()
    sources = set(re.findall(r'"x-source":"(/[^"]+)"', whole))
    assert len(sources) > 10
    for source in sources:
        assert proposed("changed", event_type, source).startswith("in schemas/"), source
