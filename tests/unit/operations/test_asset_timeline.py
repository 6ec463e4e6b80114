"""The story of an asset, from its events in any order."""

from __future__ import annotations

from itertools import count
from typing import Any

from bridge.operations.asset_timeline import tell


def events(*states: str) -> list[dict[str, Any]]:
    """Return events received one after another; a state named twice is another event."""
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


def test_a_whole_life_misses_nothing() -> None:
    """An asset that lived as Gumlet says has no notes and nothing missing, in whatever order it was read."""
    story, missing = tell(
        reversed(events("created", "downloaded", "stream_ready", "ready", "repackaged", "repackaged"))
    )
    assert story[0]["type"] == "video.status.created"
    assert {line["note"] for line in story} == {""}
    assert missing == []


def test_what_a_later_event_implies_is_missing() -> None:
    """A ready asset was created, downloaded and playable before; one that is not finished misses nothing yet."""
    assert tell(events("created", "ready"))[1] == ["video.status.downloaded", "video.status.stream_ready"]
    assert tell(events("created", "downloaded"))[1] == []
    assert tell(events("created", "errored"))[1] == []


def test_out_of_order_and_repeats_are_noted() -> None:
    """An event behind a later state is out of order; the same id again is a repeat."""
    lines = events("created", "stream_ready", "downloaded")
    story, _ = tell([*lines, lines[0] | {"received_at": "2026-01-01T00:01:00.000Z"}])
    assert [line["note"] for line in story] == ["", "", "out of order: came after stream_ready", "repeat"]
