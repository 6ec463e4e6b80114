"""The story of one asset: its events in the order of their receipt, and what in it is missing or out of order.

Pure. An event is missing when a later one of the asset's life implies it; Gumlet sends `optimized` for some assets
only, so that one is never missed. Nothing is said of an asset that is merely not finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

LIFECYCLE_ORDER = ("created", "downloaded", "stream_ready", "optimized", "ready", "repackaged", "deleted")
"""The states of a video in the order in which Gumlet reaches them; `errored` can follow any before `ready`."""
REQUIRED_PREDECESSORS = {
    "downloaded": ("created",),
    "stream_ready": ("created", "downloaded"),
    "optimized": ("created", "downloaded", "stream_ready"),
    "ready": ("created", "downloaded", "stream_ready"),
    "repackaged": ("created", "downloaded", "stream_ready", "ready"),
    "errored": ("created",),
    "deleted": ("created",),
}
"""What must have come before each state."""
VIDEO = "video.status."


def tell(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the events, each with a `note`, and the types that are missing.

    `lines` are events as `gumlet-bridge tail` prints them, in any order.
    """
    story = sorted(lines, key=lambda line: (line["received_at"], line["topic"], line["partition"], line["offset"]))
    seen: set[str] = set()
    furthest = ""
    told = []
    for line in story:
        state = line["type"].removeprefix(VIDEO)
        note = ""
        if line["id"] in seen:
            note = "repeat"
        elif state in LIFECYCLE_ORDER and furthest and LIFECYCLE_ORDER.index(state) < LIFECYCLE_ORDER.index(furthest):
            note = f"out of order: came after {furthest}"
        elif line.get("origin"):
            note = str(line["origin"])
        seen.add(line["id"])
        if state in LIFECYCLE_ORDER and (
            not furthest or LIFECYCLE_ORDER.index(state) > LIFECYCLE_ORDER.index(furthest)
        ):
            furthest = state
        told.append(line | {"note": note})
    came = {line["type"].removeprefix(VIDEO) for line in story}
    implied = {state for each in came for state in REQUIRED_PREDECESSORS.get(each, ())}
    return told, [f"{VIDEO}{state}" for state in LIFECYCLE_ORDER if state in implied - came]
