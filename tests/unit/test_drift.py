"""What the contract does not know: counted by type and place, logged once, bounded, and never with a value."""

from __future__ import annotations

from typing import Any

import orjson
from structlog.testing import capture_logs

from bridge.contract import Contract
from bridge.drift import MAX_PATHS, MAX_SIGHTINGS, Drift, Sighting, proposal
from bridge.event import Delivery
from bridge.metrics import Metrics
from bridge.normalize import Normalizer

CONTRACT = Contract.load()


def seen(*bodies: dict[str, Any]) -> tuple[Drift, set[Sighting]]:
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
    assert [(line["event"], line["path"]) for line in logs] == [("contract_drift", "/views")]
    (told,) = drift.report()
    assert (told["deliveries"], "s3cret" in str(logs)) == (2, False)
    assert '"x-source": "/views"' in proposal(told)


def test_names_that_never_end_are_bounded() -> None:
    """Beyond the bounds everything is one: types, fields and their names cannot fill the memory or the metrics."""
    wide = {"type": "video.status.ready", "asset_id": "a"} | {f"n{n}": n for n in range(1000)}
    assert len(seen(wide)[1]) == MAX_PATHS
    with capture_logs() as logs:
        drift, found = seen(*({"type": f"t{n}" + "x" * 1000} for n in range(MAX_SIGHTINGS * 2)))
    assert len(found) == len(logs) == MAX_SIGHTINGS + 1
    assert max(len(name) for sighting in found for name in sighting) <= 64
    assert drift.report()[0]["deliveries"] == MAX_SIGHTINGS


def test_the_metrics_have_each_sighting() -> None:
    """Kind, event type and path are labels."""
    metrics = Metrics()
    drift, _ = seen({"type": "new"})
    metrics.watch_drift(drift.counts.items)
    assert b'bridge_contract_drift_total{event_type="new",kind="new_type",path=""} 1.0' in metrics.render()
