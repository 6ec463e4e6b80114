"""The mappings: for each event type, the names that Gumlet uses → the contract's names, and the form of each value.

One table for each kind of object; `MAPPINGS` gives each type its table. A property that a table makes is
documented in the type's file in `schemas/`, with its `x-source` pointing back here: a test holds the two together.
"""

from __future__ import annotations

from bridge.contract.converters import (
    FRAME_RATE,
    Table,
    each,
    flag,
    integer,
    items,
    mapping,
    nested,
    number,
    text,
    texts,
    timestamp,
    to,
)

TRANSFORMATIONS = Table(
    {
        "resolution": to("resolutions", texts),
        "format": to("format", text),
        "audio_codec": to("audio_codecs", texts),
        "video_codec": to("video_codecs", texts),
        "thumbnail": to("thumbnails", items),
        "thumbnail_format": to("thumbnail_format", text),
        "mp4_access": to("mp4_access", flag),
    }
)
INPUT = Table(
    {
        "transformations": nested("transformations", TRANSFORMATIONS),
        "metadata": to("metadata", mapping),
        "source_url": to("source_url", text),
        "size": to("size_bytes", integer),
        "duration": to("duration_seconds", number),
        "aspect_ratio": to("aspect_ratio", text),
        "fps": FRAME_RATE,
        "width": to("width_pixels", integer),
        "height": to("height_pixels", integer),
        "profile_id": to("profile_id", text),
        "vimeo_id": to("vimeo_id", text),
    }
)
OUTPUT = Table(
    {
        "status_url": to("status_url", text),
        "playback_url": to("playback_url", text),
        "dash_playback_url": to("dash_playback_url", text),
        "thumbnail_url": to("thumbnail_urls", texts),
        "storage_bytes": to("storage_bytes", integer),
        "format": to("format", text),
        "download_url": to("download_url", text),
        "animated_gif_url": to("animated_gif_url", text),
        "preview_thumbnails_url": to("preview_thumbnails_url", text),
    }
)
PROBLEM = Table({"code": to("code", text), "message": to("message", text)})
VIDEO = Table(
    {
        "type": to("type", text),
        "asset_id": to("asset_id", text),
        "status": to("status", text),
        "progress": to("progress_percent", number),
        "created_at": to("created_at", timestamp),
        "tag": to("tags", texts),
        "title": to("title", text),
        "description": to("description", text),
        "input": nested("input", INPUT),
        "output": nested("output", OUTPUT),
        "error": nested("error", PROBLEM, lone="message"),
        "warning": each("warnings", PROBLEM, lone="message"),
    },
    always={"tags": [], "warnings": []},
)
LIVE_INPUT = Table(
    {
        "live_video_source_id": to("live_video_source_id", text),
        "title": to("title", text),
        "resolution": to("resolutions", texts),
        "aspect_ratio": to("aspect_ratio", text),
        "width": to("width_pixels", integer),
        "height": to("height_pixels", integer),
    }
)
LIVE_OUTPUT = Table(
    {
        "playback_url": to("playback_url", text),
        "embed_url": to("embed_url", text),
        "storage_size": to("storage_bytes", integer),
        "duration": to("duration_seconds", number),
        "recording_playback_url": to("recording_playback_url", text),
    }
)
LIVE_VIDEO = Table(
    {
        "type": to("type", text),
        "live_asset_id": to("live_asset_id", text),
        "status": to("status", text),
        "created_at": to("created_at", timestamp),
        "updated_at": to("updated_at", timestamp),
        "deleted_at": to("deleted_at", timestamp),
        "recording_asset_id": to("recording_asset_id", text),
        "vod_collection_id": to("vod_collection_id", text),
        "input": nested("input", LIVE_INPUT),
        "output": nested("output", LIVE_OUTPUT),
        "error": nested("error", PROBLEM, lone="message"),
    }
)
PRODUCT = Table({"type": to("type", text), "asset_id": to("asset_id", text)})
"""Gumlet specifies no more of its product events: all the rest of one stays as delivered, in `additional`."""

MAPPINGS = {
    "video.status.created": VIDEO,
    "video.status.downloaded": VIDEO,
    "video.status.ready": VIDEO,
    "video.status.errored": VIDEO,
    "video.status.deleted": VIDEO,
    "video.status.repackaged": VIDEO,
    "video.status.stream_ready": VIDEO,
    "video.status.optimized": VIDEO,
    "live.video.status.created": LIVE_VIDEO,
    "live.video.status.ready": LIVE_VIDEO,
    "live.video.status.preparing": LIVE_VIDEO,
    "live.video.status.connected": LIVE_VIDEO,
    "live.video.status.active": LIVE_VIDEO,
    "live.video.status.complete": LIVE_VIDEO,
    "live.video.status.disconnected": LIVE_VIDEO,
    "event.embed.viewed": PRODUCT,
    "event.embed.cta_clicked": PRODUCT,
    "event.embed.form_submitted": PRODUCT,
    "event.video.updated": PRODUCT,
    "event.video.uploaded": PRODUCT,
    "event.video.analytics": PRODUCT,
    "event.image.analytics": PRODUCT,
    "event.playlist.created": PRODUCT,
    "event.playlist.asset": PRODUCT,
    "event.playlist.deleted": PRODUCT,
    "event.comment.all": PRODUCT,
    "event.channel.member_joined": PRODUCT,
}
"""The table of each event type that has a topic of its own."""
