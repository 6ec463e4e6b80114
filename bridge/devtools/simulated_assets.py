"""Simulated videos: how they live, and what Gumlet would send about them.

Pure, and a function of a seed alone: no clock, no I/O. `lives(seed)` is an endless row of assets, and asset
number n of a seed is always the same one. A body is also what Gumlet's API would answer about the asset at
that moment, less its `type`.

What Gumlet's document and its SDK write differently (a string or a list, a number or a fraction) is drawn
field by field, so that every combination comes up. Probabilities are made up: rare things are common enough
to occur in a hundred assets.
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
"""Every type that a simulated asset sends about itself."""

READY_BYTES = (1200, 1500)
"""Least and greatest size of a `video.status.ready` body in bytes; a warning comes on top."""

WARNING = {
    "code": "WRN_LOW_FRAME_SIZE",
    "message": "Video Asset dimensions are lower than minimum supported frame size (240 pixels for HLS/DASH "
    "and 145 pixels for mp4). Any types transformation (resize, crop, pad, overlay etc.) specified would not "
    "be applied.",
}
"""What Gumlet adds for a frame below its minimum, word for word."""

_EPOCH_MS = 1_735_689_600_000  # the first simulated asset's creation, 2025-01-01; each next one is a little later
WORKSPACES = ("5f462c1561cf8a766464ffc4", "6421d7b0c93e5a2f10b8e6d1", "65aa90ff27c41e0d3b7c5582")
_FRAMES = (
    (1920, 1080, "16:9"),
    (1280, 720, "16:9"),
    (3840, 2160, "16:9"),
    (1080, 1920, "9:16"),
    (1440, 1080, "4:3"),
)
_LOW_FRAMES = {"hls": (320, 180, "16:9"), "dash": (180, 180, "1:1"), "mp4": (96, 96, "1:1")}
_LADDER = (240, 360, 480, 720, 1080, 2160)
_FPS = ("30000/1001", "25/1", "24000/1001", "60/1", 25, 29.97, 23.976, 60)
_TAGS: tuple[Any, ...] = ("Gumlet", "", "trailer", ["eu", "nightly"], ["course"], [])
_TITLES = (
    "Launch film",
    "Été à Genève",
    "東京の夜",
    "Lesson 4: loops",
    "interview_final_v2.mov",
    "Gol! ⚽ highlights",
)
_ERRORS = (
    ("ERR_INPUT", "The input file could not be decoded."),
    ("ERR_DOWNLOAD", "The source answered 404 Not Found."),
    ("ERR_PROCESSING", "The video could not be processed. Please contact support."),
)
_STATUS = {
    CREATED: ("pre-queued", "queued", "upload-pending"),
    DOWNLOADED: ("downloaded", "validated"),
    STREAM_READY: ("processing", "optimizing"),
    OPTIMIZED: ("optimzed", "processed"),  # misspelt by Gumlet
    READY: ("ready",),
    REPACKAGED: ("ready",),
    ERRORED: ("errored",),
    DELETED: ("deleted",),
}
_PROGRESS = {DOWNLOADED: (5, 20), STREAM_READY: (25, 60), OPTIMIZED: (60, 99), READY: (100, 101)}
_FILLER_TEXT = 6 * (
    "A week in the life of the people who make the show, told in their own words, with scenes that never "
    "aired, from the first rehearsal to the last night, and the long way home after it. "
)


class Asset:
    """One simulated video: what it is and what becomes of it, drawn once.

    `asset_id` is as Gumlet makes them (24 hexadecimal digits that begin with the time of creation),
    `created_ms` milliseconds since the epoch, `workspace` the one it belongs to, `types` the life to come, in order.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._rng = rng = Random(f"{seed}/{number}")  # noqa: S311 - to be repeatable is the purpose
        self.created_ms = _EPOCH_MS + number * 700 + rng.randrange(700)
        self.asset_id = f"{self.created_ms // 1000:08x}{rng.getrandbits(64):016x}"
        self.types = _draw_event_types(rng)
        self.workspace = rng.choice(WORKSPACES)
        self._format = rng.choice(("hls", "hls", "dash", "mp4"))
        self._low_resolution = _draw(rng, 0.08)
        self._says_progress = _draw(rng, 0.8)  # the document has it, the SDK does not
        self._warning: Any = rng.choice((WARNING, [WARNING]))
        self._about: dict[str, Any] = {"tag": rng.choice(_TAGS)}
        self._asked = self._request()
        self._measured = self._measure()
        self._output = self._outputs()
        self._describe()
        self._noise = rng.getrandbits(64)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the asset's life as (type, body), the same at every call.

        Bodies share parts with one another: change none.
        """
        rng = Random(self._noise)  # noqa: S311
        known = self._asked
        storage = self._output["storage_bytes"]
        progress = 0
        for event_type in self.types:
            if event_type != CREATED and not (event_type == ERRORED and progress == 0):
                known = self._measured
            if event_type == REPACKAGED and _draw(rng, 0.6):
                storage += rng.randrange(20_000, 900_000)  # otherwise the body is the former one to the byte
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
        if self._says_progress:
            head["progress"] = progress
        return head | {"created_at": self.created_ms, "status": rng.choice(_STATUS[event_type])} | self._about

    def _output_at(self, event_type: str, storage: int) -> dict[str, Any]:
        if event_type in (CREATED, DOWNLOADED):
            return {name: self._output[name] for name in ("status_url", "playback_url", "format")}
        return self._output | {"storage_bytes": storage}

    def _request(self) -> dict[str, Any]:
        """Return `input` as it is known from the start: what the user asked for."""
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

    def _measure(self) -> dict[str, Any]:
        """Return `input` as it is known once the file is downloaded."""
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
        return self._asked | measured

    def _outputs(self) -> dict[str, Any]:
        """Return `output` as it is at the end."""
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
        if self._asked["transformations"]["mp4_access"]:
            output["download_url"] = f"{files}/download.mp4"
        return output

    def _describe(self) -> None:
        """Give the asset its words, as many as bring its ready body to the size of real ones."""
        rng = self._rng
        words = self._about if _draw(rng, 0.8) else self._asked["metadata"]  # title and description are optional
        words["title"] = rng.choice(_TITLES)
        words["description"] = ""
        ready = self._head(READY, 100, rng) | {"input": self._measured, "output": self._output}
        missing = rng.randint(*READY_BYTES) - len(orjson.dumps(ready))
        start = rng.randrange(len(_FILLER_TEXT) // 6)
        words["description"] = _FILLER_TEXT[start : start + max(missing, 0)]


def lives(seed: int) -> Iterator[Asset]:
    """Yield the assets of a seed, without end."""
    for number in count():
        yield Asset(seed, number)


def _draw_event_types(rng: Random) -> tuple[str, ...]:
    """Draw the types that an asset sends, in order."""
    if _draw(rng, 0.03):
        return (CREATED, ERRORED)  # its source could not be read
    if _draw(rng, 0.05):
        return (CREATED, DOWNLOADED, ERRORED)
    life = [CREATED, DOWNLOADED, STREAM_READY]
    if _draw(rng, 0.3):
        life.append(OPTIMIZED)
    life.append(READY)
    if _draw(rng, 0.3):
        life += [REPACKAGED] * rng.randrange(1, 5)
    if _draw(rng, 0.15):
        life.append(DELETED)
    return tuple(life)


def _draw(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _metadata(rng: Random) -> dict[str, Any]:
    """Draw the user's own keys: any JSON."""
    return rng.choice(
        (
            {},
            {"key1": "value1", "key2": "value2"},
            {
                "order": rng.randrange(10**6),
                "customer": f"c-{rng.getrandbits(32):08x}",
                "draft": _draw(rng, 0.5),
            },
            {
                "campaign": {
                    "id": rng.randrange(99),
                    "names": ["a", "b"],
                    "budget": round(rng.uniform(0, 1e4), 2),
                }
            },
            {"título": "niño", "notes": None, "$schema": "own/1", "chapters": [{"at": 0, "name": "intro"}]},
        )
    )
