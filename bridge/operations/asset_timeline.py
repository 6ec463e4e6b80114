"""The timeline of one asset: its events in order of receipt, with duplicates, disorder and gaps marked.

Pure. An event is missing when a later event of the asset implies it. `optimized` is never reported as missing, because
Gumlet sends it for some assets only. Assets still in progress lack nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

LIFECYCLE_ORDER = ("created", "downloaded", "stream_ready", "optimized", "ready", "repackaged", "deleted")
"""The states of a video in the order in which Gumlet reaches them; `errored` can follow any state before `ready`."""
REQUIRED_PREDECESSORS = {
    "downloaded": ("created",),
    "stream_ready": ("created", "downloaded"),
    "optimized": ("created", "downloaded", "stream_ready"),
    "ready": ("created", "downloaded", "stream_ready"),
    "repackaged": ("created", "downloaded", "stream_ready", "ready"),
    "errored": ("created",),
    "deleted": ("created",),
}
"""The states that each state implies."""
VIDEO = "video.status."


def build_timeline(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the events, each with a `note`, and the types that are missing.

    `lines` are events as `record_to_dict` returns them, in any order.
    """
    events = sorted(lines, key=lambda line: (line["received_at"], line["topic"], line["partition"], line["offset"]))
    seen: set[str] = set()
    latest = -1
    timeline = []
    for line in events:
        state = line["type"].removeprefix(VIDEO)
        rank = LIFECYCLE_ORDER.index(state) if state in LIFECYCLE_ORDER else None
        note = str(line.get("origin") or "")
        if line["id"] in seen:
            note = "duplicate"
        elif rank is not None and rank < latest:
            note = f"out of order: received after {LIFECYCLE_ORDER[latest]}"
        seen.add(line["id"])
        latest = max(latest, -1 if rank is None else rank)
        timeline.append(line | {"note": note})
    received = {line["type"].removeprefix(VIDEO) for line in events}
    implied = {state for found in received for state in REQUIRED_PREDECESSORS.get(found, ())}
    return timeline, [f"{VIDEO}{state}" for state in LIFECYCLE_ORDER if state in implied - received]
