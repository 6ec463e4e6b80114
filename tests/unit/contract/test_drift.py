"""Schema drift: counted by type and path, logged once, bounded, and never with a value."""

from __future__ import annotations

from typing import Any

import orjson
from structlog.testing import capture_logs

from bridge.contract.drift import MAX_ENTRIES, MAX_PATHS_PER_DELIVERY, Drift, DriftEntry
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from bridge.telemetry.metrics import Metrics

CONTRACT = Contract.load()


def record(*bodies: dict[str, Any]) -> tuple[Drift, set[DriftEntry]]:
    """Normalize bodies, and return the drift and its entries."""
    drift = Drift()
    normalizer = Normalizer(CONTRACT, drift)
    for body in bodies:
        normalizer.event(Delivery(0, "default", orjson.dumps(body)))
    return drift, set(drift.counts)


def test_each_kind_of_drift_is_counted_with_its_path() -> None:
    """A new type, a new field, an unusable value: each by event type and path, a list's items under one."""
    ready = {"type": "video.status.ready", "asset_id": "a"}
    _, found = record(
        {"type": "video.status.new"},
        {"hello": 1},
        ready | {"views": 1, "input": {"color": {"space": "s3cret"}, "width": 1}},
        ready | {"warning": [{"code": "a"}, {"level": 1}]},
        ready | {"tag": ["a", {}]},
        ready | {"input": {"width": "wide", "transformations": {"format": {"a": 1}}}},
        {"type": "video.status.created", "asset_id": ["a"]},
        {"type": "video.status.deleted"},
    )
    assert found == {
        ("new_type", "video.status.new", ""),
        ("new_type", "(none)", ""),
        ("new_field", "video.status.ready", "/views"),
        ("new_field", "video.status.ready", "/input/color/space"),
        ("new_field", "video.status.ready", "/warning/*/level"),
        ("changed", "video.status.ready", "/tag"),
        ("changed", "video.status.ready", "/input/width"),
        ("changed", "video.status.ready", "/input/transformations/format"),
        ("changed", "video.status.created", "/asset_id"),
        ("changed", "video.status.deleted", "/asset_id"),
    }


def test_open_parts_of_gumlets_events_are_not_drift() -> None:
    """A product event may hold anything, and so may the user's metadata."""
    metadata = {"type": "video.status.ready", "asset_id": "a", "input": {"metadata": {"k": 1}}}
    assert record({"type": "event.comment.all", "x": 1}, metadata)[1] == set()


def test_an_entry_is_counted_each_time_and_logged_once() -> None:
    """The second delivery counts and logs nothing; no value is in the log."""
    body = {"type": "video.status.ready", "asset_id": "a", "views": "s3cret"}
    with capture_logs() as logs:
        drift, _ = record(body, body)
    assert [(line["event"], line["path"]) for line in logs] == [("schema_drift", "/views")]
    (entry,) = drift.report()
    assert (entry["deliveries"], entry["json_types"], "s3cret" in str(logs)) == (2, ["string"], False)


def test_the_number_of_entries_and_the_length_of_names_are_bounded() -> None:
    """Beyond the bounds everything is one entry: a sender cannot fill the memory or the metrics."""
    wide = {"type": "video.status.ready", "asset_id": "a"} | {f"n{n}": n for n in range(1000)}
    assert len(record(wide)[1]) == MAX_PATHS_PER_DELIVERY
    with capture_logs() as logs:
        drift, found = record(*({"type": f"t{n}" + "x" * 1000} for n in range(MAX_ENTRIES * 2)))
    assert len(found) == len(logs) == MAX_ENTRIES + 1
    assert max(len(name) for entry in found for name in entry) <= 64
    assert drift.report()[0]["deliveries"] == MAX_ENTRIES


def test_the_metrics_have_each_entry() -> None:
    """Kind, event type and path are labels."""
    metrics = Metrics()
    drift, _ = record({"type": "new"})
    metrics.register_drift(drift.counts.items)
    assert b'bridge_schema_drift_total{event_type="new",kind="new_type",path=""} 1.0' in metrics.render()
