"""Reading a log: its segments, the frames in them, and what is damaged. Nothing here writes.

Input: a directory of segments. Output: groups of deliveries in order, each once, and a `Damage` for every byte range
that is not a valid frame and for every sequence number that no valid frame holds.

Rules of reading:
1. Only files named by 20 digits and `.log` are segments. A file whose preamble names another number, or that has
   neither a valid preamble nor a valid frame, is not a segment of this log and is ignored (`Log` quarantines it).
2. A segment named n ends all earlier ones at n - 1: what they hold beyond that is of a commit that failed.
3. Each frame must begin with the expected sequence number. Behind damage, reading continues at the next valid frame;
   the numbers in between are lost, and how many they are is known exactly.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.errors import UnsupportedJournalVersion
from bridge.queue.files import Files
from bridge.queue.frame import (
    FRAME_MAGIC,
    HEADER_BYTES,
    PREAMBLE_BYTES,
    VERSION,
    Frame,
    decode_deliveries,
    decode_frame,
    decode_preamble,
    frame_size,
)
from bridge.queue.interface import Group

READ_BYTES = 256 * 1024
"""About how much one `read` returns."""
CHUNK_BYTES = 256 * 1024
BLOCK_BYTES = 4096
"""Unit in which a disk that cannot read a chunk is asked again."""
_NAME = re.compile(r"\d{20}\.log", re.ASCII)


class Damage(NamedTuple):
    """A damaged byte range, and the deliveries lost with it: `lost` of them, from `first_lost` on.

    Without a range (`length` 0) frames are missing altogether. `path` is the segment, `copy` the quarantined bytes.
    """

    path: Path
    offset: int
    length: int
    first_lost: int
    lost: int
    detail: str
    copy: Path | None = None


class Segment:
    """A segment file opened for reading. Raises OSError."""

    def __init__(self, files: Files, path: Path, *, skip_unreadable: bool = True) -> None:
        """With `skip_unreadable`, blocks that the disk cannot read are taken as zeros."""
        self.path = path
        self.first = int(path.stem)
        self.unreadable = False
        self.skip_unreadable = skip_unreadable
        self._files = files
        self._descriptor = files.open(path)
        self._buffer = b""
        self._buffer_offset = 0
        try:
            self.size = files.size(self._descriptor)
            self.preamble = decode_preamble(self.read(0, PREAMBLE_BYTES))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._descriptor)

    def sync(self) -> None:
        """Wait until what a process before this one wrote is on disk."""
        self._files.fsync(self._descriptor)

    def discard_buffer(self) -> None:
        """Forget what was read: the writer may have appended."""
        self._buffer = b""

    def read(self, offset: int, size: int) -> memoryview:
        """Return up to `size` bytes at an offset."""
        start = offset - self._buffer_offset
        if start < 0 or start + size > len(self._buffer):
            self._buffer, self._buffer_offset, start = self._pread(max(size, CHUNK_BYTES), offset), offset, 0
        return memoryview(self._buffer)[start : start + size]

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return self._files.pread(self._descriptor, size, offset)
        except OSError:
            if not self.skip_unreadable:
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
        while at < self.size:
            chunk = bytes(self.read(at, CHUNK_BYTES))
            candidate = chunk.find(FRAME_MAGIC)
            while candidate >= 0:
                if self.frame_at(at + candidate) is not None:
                    return at + candidate, at + candidate
                candidate = chunk.find(FRAME_MAGIC, candidate + 1)
            if stripped := chunk.rstrip(b"\0"):
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


def segment_paths(files: Files, directory: Path) -> dict[Path, int]:
    """Return the files that are named as segments, in order, with their inode numbers."""
    return {
        directory / name: inode
        for name, inode in sorted(files.entries(directory).items())
        if _NAME.fullmatch(name) and int(name[:20])
    }


def is_genuine(segment: Segment) -> bool:
    """Return whether a file is this log's under this name. Raises UnsupportedJournalVersion for a newer format."""
    preamble = segment.preamble
    if preamble is None:
        return segment.search(0)[0] is not None
    if preamble.version > VERSION:
        raise UnsupportedJournalVersion(
            f"{segment.path} has format {preamble.version}, this version of the bridge reads up to {VERSION}. Fix: "
            "start the newer version that wrote it, or use another directory (BRIDGE_JOURNAL_DIR)."
        )
    return preamble.first == segment.first


class LogReader:
    """Reads the deliveries of a log in order, from behind the sequence number `after`.

    Reads files that a writer appends to, through descriptors of its own; one thread at a time.
    `position` is the last sequence number that was returned, found lost, or skipped; it may be moved forward.
    """

    def __init__(
        self, directory: Path, report: Callable[[Damage], None], *, after: int = 0, files: Files | None = None
    ) -> None:
        self.position = after
        self._directory = directory
        self._report = report
        self._files = files or Files()
        self._segment: Segment | None = None
        self._inode = 0
        self._offset = PREAMBLE_BYTES
        self._genuine: dict[tuple[int, int], bool] = {}
        self._ranges: list[tuple[Segment, int, int]] = []

    def close(self) -> None:
        """Close the segment that is open."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def read(self, upto: int, max_bytes: int = READ_BYTES, *, skip_unreadable: bool = True) -> list[Group]:
        """Return the next groups up to the sequence number `upto`, which must be committed, about `max_bytes` of them.

        An empty list: everything up to `upto` has been returned or reported as lost. Raises OSError when the disk
        cannot be read, unless `skip_unreadable`: then the blocks concerned count as damaged.
        """
        inodes = {int(path.stem): inode for path, inode in segment_paths(self._files, self._directory).items()}
        names = [n for n, inode in inodes.items() if self._is_genuine(n, inode, skip_unreadable=skip_unreadable)]
        if self._segment is not None:
            self._segment.discard_buffer()
            self._segment.skip_unreadable = skip_unreadable
            if inodes.get(self._segment.first, self._inode) != self._inode:
                self.close()  # replaced after a failed commit
        groups: list[Group] = []
        taken = 0
        while self.position < upto and taken < max_bytes:
            frame = self._next_frame(names, inodes, skip_unreadable=skip_unreadable)
            if frame is None:
                self._lose(upto)
                break
            self._lose(max(self.position, min(frame.first - 1, upto, self._limit(names))))
            if frame.first > self.position + 1:
                self._offset = frame.offset
            elif frame.last > self.position and (group := self._decode(frame)) is not None:
                groups.append(group)
                taken += group.size
                self.position = frame.last
        return groups

    def _is_genuine(self, name: int, inode: int, *, skip_unreadable: bool) -> bool:
        if (name, inode) not in self._genuine:
            try:
                segment = Segment(self._files, self._path(name), skip_unreadable=skip_unreadable)
            except OSError:
                if skip_unreadable:
                    return False
                raise
            with contextlib.closing(segment):
                self._genuine[name, inode] = is_genuine(segment)
        return self._genuine[name, inode]

    def _path(self, name: int) -> Path:
        return self._directory / f"{name:020}.log"

    def _limit(self, names: list[int]) -> int:
        """Return the last sequence number that the open segment may hold."""
        assert self._segment is not None  # noqa: S101 - a frame was just read from it
        later = names[bisect_right(names, self._segment.first) :]
        return later[0] - 1 if later else 2**63

    def _next_frame(self, names: list[int], inodes: dict[int, int], *, skip_unreadable: bool) -> Frame | None:
        """Return the next valid frame of the segment for `position` or a later one; None at the end of the log."""
        while names:
            wanted = names[max(0, bisect_right(names, self.position + 1) - 1)]
            if self._segment is None or self._segment.first < wanted:
                self._switch(wanted, inodes[wanted], skip_unreadable=skip_unreadable)
            segment = self._segment
            assert segment is not None  # noqa: S101 - just opened
            if (frame := segment.frame_at(self._offset)) is not None:
                self._offset = frame.end
                return frame
            found, end = segment.search(self._offset)
            if end > self._offset:
                self._ranges.append((segment, self._offset, end))
                self._offset = end
            if found is None:
                if self._limit(names) >= 2**63:
                    return None
                self._lose(self._limit(names))
        return None

    def _switch(self, name: int, inode: int, *, skip_unreadable: bool) -> None:
        if self._segment is not None:
            # The rest of a segment holds zeros, or frames of a failed commit.
            rest = self._segment.walk(self._offset)
            self._ranges += [(self._segment, *found) for found in rest if not isinstance(found, Frame)]
            self.close()
        self._segment = segment = Segment(self._files, self._path(name), skip_unreadable=skip_unreadable)
        self._inode = inode
        self._offset = PREAMBLE_BYTES
        if segment.preamble is None:
            self._ranges.append((segment, 0, PREAMBLE_BYTES))

    def _lose(self, upto: int) -> None:
        """Report the damaged ranges since the last valid frame, with the deliveries up to `upto` as lost."""
        lost = upto - self.position
        ranges, self._ranges = self._ranges, []
        for segment, begin, end in ranges:
            self._report(
                Damage(segment.path, begin, end - begin, self.position + 1, lost, "these bytes are not a valid frame")
            )
            self.position += lost
            lost = 0
        if lost:
            path = self._directory if self._segment is None else self._segment.path
            self._report(Damage(path, self._offset, 0, self.position + 1, lost, "the frames are missing"))
            self.position += lost

    def _decode(self, frame: Frame) -> Group | None:
        try:
            deliveries = decode_deliveries(frame.payload)
        except msgspec.MsgspecError:
            deliveries = []
        if len(deliveries) != frame.deliveries:
            assert self._segment is not None  # noqa: S101 - the frame was just read from it
            self._ranges.append((self._segment, frame.offset, frame.end))
            self._lose(frame.last)
            return None
        deliveries = deliveries[max(0, self.position + 1 - frame.first) :]
        first = frame.last - len(deliveries) + 1
        return Group(first, frame.last, deliveries[0].received_ms, frame.size, frame.total, deliveries)
