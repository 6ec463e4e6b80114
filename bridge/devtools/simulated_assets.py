"""Simulated videos: their lifecycle, and the webhook bodies that Gumlet would send for them.

Pure, and a function of a seed alone: no clock, no I/O. `generate_assets(seed)` is an endless sequence in which asset
number n of a seed is always the same. A body without its `type` is also what Gumlet's API returns for the asset at that
moment.

Where Gumlet's document and its SDK differ (a string or a list, an integer or a fraction), each field is drawn
separately, so that every combination occurs. Probabilities are invented: rare cases occur within a hundred assets.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = "video.status.created"
DOWNLOADED = "video.status.downloaded"
STREAM_READY = "video.status.stream_ready"
OPTIMIZED = "video.status.optimized"
READY = "video.status.ready"
REPACKAGED = "video.status.repackaged"
ERRORED = "video.status.errored"
DELETED = "video.status.deleted"
TYPES = frozenset({CREATED, DOWNLOADED, STREAM_READY, OPTIMIZED, READY, REPACKAGED, ERRORED, DELETED})
"""Every type that simulated assets send."""

READY_BYTES = (1200, 1500)
"""Smallest and largest `video.status.ready` body in bytes, without a warning."""

WARNING = {
    "code": "WRN_LOW_FRAME_SIZE",
    "message": "Video Asset dimensions are lower than minimum supported frame size (240 pixels for HLS/DASH "
    "and 145 pixels for mp4). Any types transformation (resize, crop, pad, overlay etc.) specified would not "
    "be applied.",
}
"""Gumlet's literal warning for a frame below its minimum size."""

_EPOCH_MS = 1_735_689_600_000  # the first simulated asset's creation, 2025-01-01; each next one is a little later
WORKSPACES = ("5f462c1561cf8a766464ffc4", "6421d7b0c93e5a2f10b8e6d1", "65aa90ff27c41e0d3b7c5582")
_FRAMES = ((1920, 1080, "16:9"), (1280, 720, "16:9"), (3840, 2160, "16:9"), (1080, 1920, "9:16"), (1440, 1080, "4:3"))
_LOW_FRAMES = {"hls": (320, 180, "16:9"), "dash": (180, 180, "1:1"), "mp4": (96, 96, "1:1")}
_LADDER = (240, 360, 480, 720, 1080, 2160)
_FPS = ("30000/1001", "25/1", "24000/1001", "60/1", 25, 29.97, 23.976, 60)
_TAGS: tuple[Any, ...] = ("Gumlet", "", "trailer", ["eu", "nightly"], ["course"], [])
_TITLES = ("Launch film", "Été à Genève", "東京の夜", "Lesson 4: loops", "interview_final_v2.mov", "Gol! ⚽ highlights")
_ERRORS = (
    ("ERR_INPUT", "The input file could not be decoded."),
    ("ERR_DOWNLOAD", "The source answered 404 Not Found."),
    ("ERR_PROCESSING", "The video could not be processed. Please contact support."),
)
_STATUS = {
    CREATED: ("pre-queued", "queued", "upload-pending"),
    DOWNLOADED: ("downloaded", "validated"),
    STREAM_READY: ("processing", "optimizing"),
    OPTIMIZED: ("optimzed", "processed"),  # Gumlet's spelling
    READY: ("ready",),
    REPACKAGED: ("ready",),
    ERRORED: ("errored",),
    DELETED: ("deleted",),
}
_PROGRESS = {DOWNLOADED: (5, 20), STREAM_READY: (25, 60), OPTIMIZED: (60, 99), READY: (100, 101)}
_FILLER_TEXT = 6 * (
    "A week with the people who produce the show, described in their own words, with scenes that never "
    "aired, from the first reading to the last night, and the long journey home afterwards. "
)


class Asset:
    """One simulated video, drawn once.

    `asset_id`: 24 hexadecimal digits that begin with the creation time, as Gumlet's. `created_ms`: milliseconds since
    1970. `workspace`: the workspace that it belongs to. `types`: the event types of its lifecycle, in order.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._rng = rng = Random(f"{seed}/{number}")  # noqa: S311 - reproducible on purpose
        self.created_ms = _EPOCH_MS + number * 700 + rng.randrange(700)
        self.asset_id = f"{self.created_ms // 1000:08x}{rng.getrandbits(64):016x}"
        self.types = _draw_event_types(rng)
        self.workspace = rng.choice(WORKSPACES)
        self._format = rng.choice(("hls", "hls", "dash", "mp4"))
        self._low_resolution = _draw(rng, 0.08)
        self._has_progress = _draw(rng, 0.8)  # the document has it, the SDK does not
        self._warning: Any = rng.choice((WARNING, [WARNING]))
        self._labels: dict[str, Any] = {"tag": rng.choice(_TAGS)}
        self._requested = self._draw_request()
        self._measured = self._draw_measurements()
        self._output = self._draw_output()
        self._draw_labels()
        self._noise = rng.getrandbits(64)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (type, body) for each event, the same in every call.

        Bodies share parts with each other and must not be changed.
        """
        rng = Random(self._noise)  # noqa: S311 - reproducible on purpose
        known = self._requested
        storage = self._output["storage_bytes"]
        progress = 0
        for event_type in self.types:
            if event_type != CREATED and not (event_type == ERRORED and progress == 0):
                known = self._measured
            if event_type == REPACKAGED and _draw(rng, 0.6):
                storage += rng.randrange(20_000, 900_000)  # otherwise the body equals the previous one
            if event_type in _PROGRESS:
                progress = rng.randrange(*_PROGRESS[event_type])
            body = self._head(event_type, progress, rng) | {"input": known}
            if event_type == ERRORED:
                code, message = rng.choice(_ERRORS)
                body["error"] = {"code": code, "message": message}
            elif event_type != DELETED:
                body["output"] = self._output_at(event_type, storage)
                if self._low_resolution and event_type in (READY, REPACKAGED):
                    body["warning"] = self._warning
            yield event_type, body

    def _head(self, event_type: str, progress: int, rng: Random) -> dict[str, Any]:
        head: dict[str, Any] = {"type": event_type, "asset_id": self.asset_id}
        if self._has_progress:
            head["progress"] = progress
        return head | {"created_at": self.created_ms, "status": rng.choice(_STATUS[event_type])} | self._labels

    def _output_at(self, event_type: str, storage: int) -> dict[str, Any]:
        if event_type in (CREATED, DOWNLOADED):
            return {name: self._output[name] for name in ("status_url", "playback_url", "format")}
        return self._output | {"storage_bytes": storage}

    def _draw_request(self) -> dict[str, Any]:
        """Return `input` as it is known at creation: what the user requested."""
        rng = self._rng
        transformations: dict[str, Any] = {
            "resolution": [f"{height}p" for height in _LADDER[: rng.randrange(1, len(_LADDER))]],
            "format": self._format,
            "audio_codec": rng.choice(("aac", ["aac"], ["aac", "opus"])),
            "video_codec": rng.choice(("libx264", ["libx264"])),
            "thumbnail": ["auto"],
            "thumbnail_format": rng.choice(("png", "webp")),
            "mp4_access": _draw(rng, 0.3),
        }
        if self._low_resolution:
            transformations["process_low_resolution_input"] = True
        uploaded = f"{self.workspace}/{self.asset_id}/origin-{self.asset_id}"
        return {
            "transformations": transformations,
            "metadata": _metadata(rng),
            "source_url": rng.choice((f"https://media.example.com/in/{self.asset_id[8:]}.mp4", uploaded)),
        }

    def _draw_measurements(self) -> dict[str, Any]:
        """Return `input` as it is known after the download."""
        rng = self._rng
        width, height, ratio = _LOW_FRAMES[self._format] if self._low_resolution else rng.choice(_FRAMES)
        duration: float = rng.choice((rng.randrange(3, 600), round(rng.uniform(3, 7200), 2)))
        measured = {
            "size": int(duration * width * height * rng.uniform(0.1, 0.5)),
            "duration": duration,
            "aspect_ratio": ratio,
            "fps": rng.choice(_FPS),
            "width": width,
            "height": height,
        }
        if _draw(rng, 0.3):
            measured["profile_id"] = f"{rng.getrandbits(96):024x}"
        return self._requested | measured

    def _draw_output(self) -> dict[str, Any]:
        """Return the final `output`."""
        rng = self._rng
        files = f"https://video.gumlet.io/{self.workspace}/{self.asset_id}"
        playback = {"hls": "main.m3u8", "dash": "main.mpd", "mp4": "download.mp4"}[self._format]
        output: dict[str, Any] = {
            "status_url": f"https://api.gumlet.com/v1/video/assets/{self.asset_id}",
            "playback_url": f"{files}/{playback}",
            "thumbnail_url": [f"{files}/thumbnail-1-{n}.png" for n in range(rng.randrange(3))],
            "storage_bytes": int(self._measured["size"] * rng.uniform(0.8, 2)),
            "format": self._format,
        }
        if self._format == "hls" and _draw(rng, 0.7):
            output["dash_playback_url"] = f"{files}/main.mpd"
        if self._requested["transformations"]["mp4_access"]:
            output["download_url"] = f"{files}/download.mp4"
        return output

    def _draw_labels(self) -> None:
        """Set title and description, long enough that the ready body has a realistic size."""
        rng = self._rng
        target = self._labels if _draw(rng, 0.8) else self._requested["metadata"]  # title and description are optional
        target["title"] = rng.choice(_TITLES)
        target["description"] = ""
        ready = self._head(READY, 100, rng) | {"input": self._measured, "output": self._output}
        missing = rng.randint(*READY_BYTES) - len(orjson.dumps(ready))
        start = rng.randrange(len(_FILLER_TEXT) // 6)
        target["description"] = _FILLER_TEXT[start : start + max(missing, 0)]


def generate_assets(seed: int) -> Iterator[Asset]:
    """Yield the assets of a seed; the sequence is infinite."""
    for number in count():
        yield Asset(seed, number)


def _draw_event_types(rng: Random) -> tuple[str, ...]:
    """Return the event types of an asset, in order."""
    if _draw(rng, 0.03):
        return (CREATED, ERRORED)  # its source cannot be read
    if _draw(rng, 0.05):
        return (CREATED, DOWNLOADED, ERRORED)
    types = [CREATED, DOWNLOADED, STREAM_READY]
    if _draw(rng, 0.3):
        types.append(OPTIMIZED)
    types.append(READY)
    if _draw(rng, 0.3):
        types += [REPACKAGED] * rng.randrange(1, 5)
    if _draw(rng, 0.15):
        types.append(DELETED)
    return tuple(types)


def _draw(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _metadata(rng: Random) -> dict[str, Any]:
    """Return user-defined metadata: any JSON."""
    order = {"order": rng.randrange(10**6), "customer": f"c-{rng.getrandbits(32):08x}", "draft": _draw(rng, 0.5)}
    campaign = {"id": rng.randrange(99), "names": ["a", "b"], "budget": round(rng.uniform(0, 1e4), 2)}
    text = {"título": "niño", "notes": None, "$schema": "own/1", "chapters": [{"at": 0, "name": "intro"}]}
    return rng.choice(({}, {"key1": "value1", "key2": "value2"}, order, {"campaign": campaign}, text))
