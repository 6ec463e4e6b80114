"""The mappings: for each event type, Gumlet's field names → the contract's names, and the converter of each value.

One `ObjectMapping` for each kind of object; `MAPPINGS` assigns one to each type. Each property is documented in the
type's file in `schemas/`, with its `x-source` pointing back here: a test compares the two.
"""

from __future__ import annotations

from bridge.contract.converters import (
    to_amount,
    to_any,
    to_bool,
    to_count,
    to_key,
    to_list,
    to_object,
    to_percent,
    to_string,
    to_string_list,
    to_timestamp,
)
from bridge.contract.object_mapping import FRAME_RATE, ObjectMapping, field, list_of, nested

TRANSFORMATIONS = ObjectMapping(
    {
        "resolution": field("resolutions", to_string_list),
        "format": field("format", to_string),
        "audio_codec": field("audio_codecs", to_string_list),
        "video_codec": field("video_codecs", to_string_list),
        "thumbnail": field("thumbnails", to_list),
        "thumbnail_format": field("thumbnail_format", to_string),
        "mp4_access": field("mp4_access", to_bool),
        "width": field("width", to_string),
        "height": field("height", to_string),
        "secondary_video_codec": field("secondary_video_codec", to_string),
        "audio_only": field("audio_only", to_bool),
        "keep_original": field("keep_original", to_bool),
        "per_title_encoding": field("per_title_encoding", to_bool),
        "process_low_resolution_input": field("process_low_resolution_input", to_bool),
        "pad": field("pad", to_object),
        "crop": field("crop", to_object),
        "trim": field("trim", to_object),
        "text_overlay": field("text_overlay", to_object),
        "image_overlay": field("image_overlay", to_object),
        "animated_gif": field("animated_gif", to_any),
        "generate_subtitles": field("generate_subtitles", to_any),
        "preview_thumbnails": field("preview_thumbnails", to_any),
    }
)
INPUT = ObjectMapping(
    {
        "transformations": nested("transformations", TRANSFORMATIONS),
        "metadata": field("metadata", to_object, is_open=True),
        "source_url": field("source_url", to_string),
        "size": field("size_bytes", to_count),
        "duration": field("duration_seconds", to_amount),
        "aspect_ratio": field("aspect_ratio", to_string),
        "fps": FRAME_RATE,
        "width": field("width_pixels", to_count),
        "height": field("height_pixels", to_count),
        "profile_id": field("profile_id", to_string),
        "vimeo_id": field("vimeo_id", to_string),
    }
)
OUTPUT = ObjectMapping(
    {
        "status_url": field("status_url", to_string),
        "playback_url": field("playback_url", to_string),
        "dash_playback_url": field("dash_playback_url", to_string),
        "thumbnail_url": field("thumbnail_urls", to_string_list),
        "storage_bytes": field("storage_bytes", to_count),
        "format": field("format", to_string),
        "download_url": field("download_url", to_string),
        "animated_gif_url": field("animated_gif_url", to_string),
        "preview_thumbnails_url": field("preview_thumbnails_url", to_string),
    }
)
ERROR_OR_WARNING = ObjectMapping({"code": field("code", to_string), "message": field("message", to_string)})
VIDEO = ObjectMapping(
    {
        "type": field("type", to_string),
        "asset_id": field("asset_id", to_key),
        "status": field("status", to_string),
        "progress": field("progress_percent", to_percent),
        "created_at": field("created_at", to_timestamp),
        "tag": field("tags", to_string_list),
        "title": field("title", to_string),
        "description": field("description", to_string),
        "input": nested("input", INPUT),
        "output": nested("output", OUTPUT),
        "error": nested("error", ERROR_OR_WARNING, text_as="message"),
        "warning": list_of("warnings", ERROR_OR_WARNING, text_as="message"),
    },
    always={"tags": [], "warnings": []},
)
LIVE_INPUT = ObjectMapping(
    {
        "live_video_source_id": field("live_video_source_id", to_string),
        "title": field("title", to_string),
        "resolution": field("resolutions", to_string_list),
        "aspect_ratio": field("aspect_ratio", to_string),
        "width": field("width_pixels", to_count),
        "height": field("height_pixels", to_count),
    }
)
LIVE_OUTPUT = ObjectMapping(
    {
        "playback_url": field("playback_url", to_string),
        "embed_url": field("embed_url", to_string),
        "storage_size": field("storage_bytes", to_count),
        "duration": field("duration_seconds", to_amount),
        "recording_playback_url": field("recording_playback_url", to_string),
    }
)
LIVE_VIDEO = ObjectMapping(
    {
        "type": field("type", to_string),
        "live_asset_id": field("live_asset_id", to_key),
        "status": field("status", to_string),
        "created_at": field("created_at", to_timestamp),
        "updated_at": field("updated_at", to_timestamp),
        "deleted_at": field("deleted_at", to_timestamp),
        "recording_asset_id": field("recording_asset_id", to_string),
        "vod_collection_id": field("vod_collection_id", to_string),
        "input": nested("input", LIVE_INPUT),
        "output": nested("output", LIVE_OUTPUT),
        "error": nested("error", ERROR_OR_WARNING, text_as="message"),
    }
)
PRODUCT_EVENT = ObjectMapping({"type": field("type", to_string), "asset_id": field("asset_id", to_key)}, is_open=True)
"""Gumlet specifies only the type of its product events: everything else stays as delivered, in `additional`."""

MAPPINGS = {
    "video.status.created": VIDEO,
    "video.status.downloaded": VIDEO,
    "video.status.ready": VIDEO,
    "video.status.errored": VIDEO,
    "video.status.deleted": VIDEO,
    "video.status.repackaged": VIDEO,
    "video.status.stream_ready": VIDEO,
    "video.status.optimized": VIDEO,
    "video.status.processed": VIDEO,
    "live.video.status.created": LIVE_VIDEO,
    "live.video.status.ready": LIVE_VIDEO,
    "live.video.status.preparing": LIVE_VIDEO,
    "live.video.status.connected": LIVE_VIDEO,
    "live.video.status.active": LIVE_VIDEO,
    "live.video.status.complete": LIVE_VIDEO,
    "live.video.status.disconnected": LIVE_VIDEO,
    "event.embed.viewed": PRODUCT_EVENT,
    "event.embed.cta_clicked": PRODUCT_EVENT,
    "event.embed.form_submitted": PRODUCT_EVENT,
    "event.video.updated": PRODUCT_EVENT,
    "event.video.uploaded": PRODUCT_EVENT,
    "event.video.analytics": PRODUCT_EVENT,
    "event.image.analytics": PRODUCT_EVENT,
    "event.playlist.created": PRODUCT_EVENT,
    "event.playlist.asset": PRODUCT_EVENT,
    "event.playlist.deleted": PRODUCT_EVENT,
    "event.comment.all": PRODUCT_EVENT,
    "event.channel.member_joined": PRODUCT_EVENT,
}
"""The mapping of each event type that has a topic of its own."""
