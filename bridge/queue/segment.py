"""The segments of a log: reading their frames, and the state of a log from its last valid frame. Nothing here writes.

Rule of reading: a segment named n ends all earlier ones at n - 1. What they hold beyond that is of a commit that
failed. Only files named by 20 digits and `.log` are segments. A file whose preamble names another number, or that has
neither a valid preamble nor a valid frame, is not a segment of this log.
"""

from __future__ import annotations

import contextlib
import errno
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bridge.errors import UnsupportedJournalVersion
from bridge.queue.files import Files
from bridge.queue.frame import (
    FRAME_MAGIC,
    HEADER_BYTES,
    PREAMBLE_BYTES,
    VERSION,
    Frame,
    State,
    claimed_deliveries,
    decode_frame,
    decode_preamble,
    frame_size,
)

CHUNK_BYTES = 256 * 1024
_ZEROS = bytes(CHUNK_BYTES)
BLOCK_BYTES = 4096
"""Unit in which a disk that cannot read a chunk is asked again."""
_OWN_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that say nothing about the file that could not be opened."""
_NAME = re.compile(r"\d{20}\.log", re.ASCII)


class Damage(NamedTuple):
    """A damaged byte range, and the deliveries lost with it: `lost` of them, from `first_lost` on.

    Without a range (`length` 0) frames are missing altogether. `path` is the segment, `copy` the quarantined bytes,
    which had been copied before if it is `repeated`.
    """

    path: Path
    offset: int
    length: int
    first_lost: int
    lost: int
    detail: str
    copy: Path | None = None
    repeated: bool = False


def segment_path(directory: Path, first: int) -> Path:
    """Return the path of the segment whose first sequence number is `first`."""
    return directory / f"{first:020}.log"


def segment_paths(files: Files, directory: Path) -> list[Path]:
    """Return the files that are named as segments, in order."""
    return [directory / name for name in files.names(directory) if _NAME.fullmatch(name) and int(name[:20])]


class Segment:
    """A segment file opened for reading. Raises OSError."""

    def __init__(self, files: Files, path: Path, *, skip_unreadable: bool = True) -> None:
        """With `skip_unreadable`, blocks that the disk cannot read are taken as zeros."""
        self.path = path
        self.first = int(path.stem)
        self.unreadable = False
        self._skip_unreadable = skip_unreadable
        self._files = files
        self._descriptor = files.open(path)
        self._buffer = b""
        self._buffer_offset = 0
        try:
            self.size = files.size(self._descriptor)
            self.preamble = decode_preamble(self._pread(PREAMBLE_BYTES, 0))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._descriptor)

    def sync(self) -> None:
        """Wait until what a process before this one wrote is on disk."""
        self._files.fsync(self._descriptor)

    def is_genuine(self) -> bool:
        """Return whether the file is this log's of this name. Raises UnsupportedJournalVersion for a newer format."""
        if self.preamble is None:
            return self.search(0)[0] is not None
        if self.preamble.version > VERSION:
            raise UnsupportedJournalVersion(
                f"{self.path} has format {self.preamble.version}, this version of the bridge reads up to {VERSION}. "
                "Fix: start the newer version that wrote it, or use another directory (BRIDGE_JOURNAL_DIR)."
            )
        return self.preamble.first == self.first

    def read(self, offset: int, size: int) -> memoryview:
        """Return up to `size` bytes at an offset."""
        start = offset - self._buffer_offset
        if start < 0 or start + size > len(self._buffer):
            self._buffer, self._buffer_offset, start = self._pread(max(size, CHUNK_BYTES), offset), offset, 0
        return memoryview(self._buffer)[start : start + size]

    def chunks(self, offset: int, length: int) -> Iterator[tuple[int, bytes]]:
        """Yield a byte range in pieces, each with its offset."""
        for at in range(offset, offset + length, CHUNK_BYTES):
            yield at, bytes(self.read(at, min(CHUNK_BYTES, offset + length - at)))

    def range_name(self, offset: int, length: int) -> str:
        """Return a name for the content of a byte range: the same place with the same bytes has the same name."""
        checksum = 0
        for _, chunk in self.chunks(offset, length):
            checksum = zlib.crc32(chunk, checksum)
        return f"{self.path.stem}@{offset}-{checksum:08x}"

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return self._files.pread(self._descriptor, size, offset)
        except OSError:
            if not self._skip_unreadable:
                raise
        self.unreadable = True
        blocks: list[bytes] = []
        for at in range(offset, min(offset + size, self.size), BLOCK_BYTES):
            length = min(BLOCK_BYTES, offset + size - at, self.size - at)
            try:
                blocks.append(self._files.pread(self._descriptor, length, at))
            except OSError:
                blocks.append(bytes(length))
        return b"".join(blocks)

    def frame_at(self, offset: int) -> Frame | None:
        """Return the valid frame at an offset, if there is one."""
        size = frame_size(self.read(offset, HEADER_BYTES))
        if size is None or offset + size > self.size:
            return None
        return decode_frame(self.first, offset, self.read(offset, size))

    def search(self, offset: int) -> tuple[int | None, int]:
        """Return the offset of the next valid frame, and the end of the bytes before it that are not zero."""
        end = at = offset
        while (data := self._files.next_data(self._descriptor, at)) is not None and at < self.size:
            at = data
            chunk = bytes(self.read(at, CHUNK_BYTES))
            candidate = -1 if chunk == _ZEROS else chunk.find(FRAME_MAGIC)
            while candidate >= 0:
                if self.frame_at(at + candidate) is not None:
                    return at + candidate, at + candidate
                candidate = chunk.find(FRAME_MAGIC, candidate + 1)
            if chunk != _ZEROS and (stripped := chunk.rstrip(b"\0")):
                end = max(end, at + len(stripped))
            if len(chunk) < CHUNK_BYTES:
                break
            at += CHUNK_BYTES - len(FRAME_MAGIC) + 1
        return None, end

    def walk(self, offset: int = PREAMBLE_BYTES) -> Iterator[Frame | tuple[int, int]]:
        """Yield the valid frames in order, and between them the damaged ranges (begin, end)."""
        while True:
            if (frame := self.frame_at(offset)) is not None:
                yield frame
                offset = frame.end
                continue
            found, end = self.search(offset)
            if end > offset:
                yield offset, end
            if found is None:
                return
            offset = found


class Recovery(NamedTuple):
    """A log as its files show it: the segments in order, and the state in the last valid frame.

    `not_segments` are files that only have a segment's name, `unreadable` segments with blocks that cannot be read.
    `checkpointed` says that the last valid frame has no deliveries. `end` is where the last segment's frames end if it
    is undamaged, otherwise 0. `damage` is what the last segment shows: how many deliveries damage before the last valid
    frame costs, a reader finds out.
    """

    segments: list[int]
    not_segments: list[Damage]
    unreadable: set[int]
    last: int
    total: int
    state: State
    checkpointed: bool
    end: int
    damage: list[Damage]


def recover(files: Files, directory: Path, *, sync: bool = False) -> Recovery:
    """Read a log's state; with `sync`, wait until the last segment is on disk.

    Raises OSError for a lack of descriptors or memory, UnsupportedJournalVersion for a newer format. Files that cannot
    be read are not segments.
    """
    segments, not_segments, unreadable = _classify(files, directory)
    last_frame: Frame | None = None
    damage: list[Damage] = []
    end, limit = 0, 2**63
    for first in reversed(segments):
        with contextlib.closing(Segment(files, segment_path(directory, first))) as segment:
            last_frame, ranges = _scan(segment, limit)
            if first == segments[-1]:
                if sync:
                    segment.sync()
                damage = _damage(segment, last_frame, ranges)
                end = last_frame.end if last_frame is not None and not damage and not segment.unreadable else 0
        if last_frame is not None:
            break
        limit = first - 1
    last, total, state, checkpointed = 0, 0, State(), True
    if last_frame is not None:
        last, total, state = last_frame.last, last_frame.total, last_frame.state
        checkpointed = not last_frame.deliveries
    last = max(last, segments[-1] - 1) if segments else 0
    return Recovery(segments, not_segments, unreadable, last, total, state, checkpointed, end, damage)


def _classify(files: Files, directory: Path) -> tuple[list[int], list[Damage], set[int]]:
    """Return the segments, the files that only have a segment's name, and the segments with unreadable blocks."""
    segments: list[int] = []
    not_segments: list[Damage] = []
    unreadable: set[int] = set()
    for path in segment_paths(files, directory):
        try:
            with contextlib.closing(Segment(files, path)) as segment:
                size, detail = segment.size, "the file is not a segment of this log"
                genuine = segment.is_genuine()
                if segment.unreadable:
                    unreadable.add(segment.first)
        except OSError as error:
            if error.errno in _OWN_FAULTS:
                raise
            genuine, size, detail = False, 0, f"the file cannot be read: {error.strerror}"
        if genuine:
            segments.append(int(path.stem))
        else:
            not_segments.append(Damage(path, 0, size, 0, 0, detail))
    return segments, not_segments, unreadable


def _scan(segment: Segment, limit: int) -> tuple[Frame | None, list[tuple[int, int]]]:
    """Return the last valid frame up to the sequence number `limit`, and the damaged ranges."""
    last: Frame | None = None
    ranges = [(0, PREAMBLE_BYTES)] if segment.preamble is None else []
    for item in segment.walk():
        if not isinstance(item, Frame):
            ranges.append(item)
        elif item.first <= limit:
            last = item._replace(payload=b"")
    return last, ranges


def _damage(segment: Segment, frame: Frame | None, ranges: list[tuple[int, int]]) -> list[Damage]:
    """Describe the damage in the last segment, after whose last valid frame nothing names what is missing."""
    last, end = (segment.first - 1, 0) if frame is None else (frame.last, frame.end)
    damage: list[Damage] = []
    for begin, stop in ranges:
        detail = "these bytes are not a valid frame: damaged, or of a write that was interrupted"
        if begin >= end and (claimed := claimed_deliveries(segment.read(begin, HEADER_BYTES), last + 1)):
            detail += f"; if that write was acknowledged, {claimed} deliveries are lost"
        damage.append(Damage(segment.path, begin, stop - begin, last + 1, 0, detail))
    if segment.preamble is not None and segment.size < segment.preamble.size:
        missing = segment.preamble.size - segment.size
        detail = "the end of the file is cut off, with the deliveries in it"
        damage.append(Damage(segment.path, segment.size, missing, last + 1, 0, detail))
    return damage
