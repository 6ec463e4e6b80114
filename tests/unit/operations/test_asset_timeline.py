"""The timeline of an asset, built from its events in any order."""

from __future__ import annotations

from itertools import count
from typing import Any

from bridge.operations.asset_timeline import build_timeline


def events(*states: str) -> list[dict[str, Any]]:
    """Return events received one second apart; a repeated state is another event."""
    numbers = count()
    return [
        {
            "id": str(number),
            "type": f"video.status.{state}",
            "topic": state,
            "partition": 0,
            "offset": 0,
            "received_at": f"2026-01-01T00:00:{number:02}.000Z",
        }
        for state, number in zip(states, numbers, strict=False)
    ]


def test_complete_lifecycle_has_no_notes_and_nothing_missing() -> None:
    """A complete lifecycle has no notes and nothing missing, in whatever order its events were read."""
    timeline, missing = build_timeline(
        reversed(events("created", "downloaded", "stream_ready", "ready", "repackaged", "repackaged"))
    )
    assert timeline[0]["type"] == "video.status.created"
    assert {line["note"] for line in timeline} == {""}
    assert missing == []


def test_predecessors_of_received_events_are_missing() -> None:
    """A ready asset must have been created, downloaded and streamable; an asset in progress lacks nothing."""
    assert build_timeline(events("created", "ready"))[1] == ["video.status.downloaded", "video.status.stream_ready"]
    assert build_timeline(events("created", "downloaded"))[1] == []
    assert build_timeline(events("created", "errored"))[1] == []


def test_processed_and_optimized_are_of_one_rank_before_ready() -> None:
    """Either may be received first and neither is missing; after `ready` each is out of order."""
    for first, second in (("processed", "optimized"), ("optimized", "processed")):
        lines = events("created", "downloaded", "stream_ready", first, second, "ready")
        timeline, missing = build_timeline(lines)
        assert ({line["note"] for line in timeline}, missing) == ({""}, [])
    timeline, missing = build_timeline(events("created", "ready", "processed"))
    assert timeline[-1]["note"] == "out of order: received after ready"
    assert build_timeline(events("processed"))[1] == [
        f"video.status.{state}" for state in ("created", "downloaded", "stream_ready")
    ]


def test_disorder_and_duplicates_are_noted() -> None:
    """An event after a later state is out of order; the same id again is a duplicate."""
    lines = events("created", "stream_ready", "downloaded")
    timeline, _ = build_timeline([*lines, lines[0] | {"received_at": "2026-01-01T00:01:00.000Z"}])
    assert [line["note"] for line in timeline] == ["", "", "out of order: received after stream_ready", "duplicate"]
