"""The timeline of one asset: its events in order of receipt, with duplicates, disorder and gaps marked.

Pure. An event is missing when a later event of the asset implies it. Neither `optimized` nor `processed` is reported as
missing, because Gumlet sends them for some assets only. Assets still in progress lack nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

RANKS = {
    "created": 0,
    "downloaded": 1,
    "stream_ready": 2,
    "optimized": 3,
    "processed": 3,
    "ready": 4,
    "repackaged": 5,
    "deleted": 6,
}
"""The states of a video in the order in which Gumlet reaches them; `errored` can follow any state before `ready`."""
REQUIRED = ("created", "downloaded", "stream_ready", "ready")
"""The states that every later state implies, except that `errored` and `deleted` imply only the first."""
VIDEO = "video.status."


def build_timeline(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the events, each with a `note`, and the types that are missing.

    `lines` are events as `record_to_dict` returns them, in any order.
    """
    events = sorted(lines, key=lambda line: (line["received_at"], line["topic"], line["partition"], line["offset"]))
    seen: set[str] = set()
    latest = ""
    timeline = []
    for line in events:
        state = line["type"].removeprefix(VIDEO)
        rank = RANKS.get(state, -1)
        note = str(line.get("origin") or "")
        if line["id"] in seen:
            note = "duplicate"
        elif 0 <= rank < RANKS.get(latest, -1):
            note = f"out of order: received after {latest}"
        seen.add(line["id"])
        if rank >= RANKS.get(latest, -1):
            latest = state
        timeline.append(line | {"note": note})
    received = {line["type"].removeprefix(VIDEO) for line in events}
    last = max((RANKS[state] for state in received & RANKS.keys() - {"deleted"}), default=-1)
    implied = [state for state in REQUIRED if RANKS[state] < last] or (
        ["created"] if received & {"errored", "deleted"} else []
    )
    return timeline, [f"{VIDEO}{state}" for state in implied if state not in received]
