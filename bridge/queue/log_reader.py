"""Reading the deliveries of a log in order, each once. Nothing here writes.

Input: a directory and its segments. Output: groups of deliveries, and a `Damage` for every byte range that is not a
valid frame and for every sequence number that no valid frame holds.

Invariants, besides the rule of reading (`segment.py`): each frame must begin with the expected sequence number. After
damage, reading continues at the next valid frame; the numbers in between are lost, and how many is known exactly.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bridge.queue.files import Files
from bridge.queue.frame import PREAMBLE_BYTES, Frame, decode_deliveries
from bridge.queue.interface import Group
from bridge.queue.segment import Damage, Segment, segment_path

READ_BYTES = 256 * 1024
"""About how much one `read` returns."""


class LogReader:
    """Reads the deliveries of a log in order, from behind the sequence number `after`; one thread at a time.

    `segments` holds the first sequence numbers of the log's segments; a writer may append to the files and the list.
    `position` is the last sequence number that was returned, found lost, or skipped; it may be moved forward.
    """

    def __init__(
        self,
        directory: Path,
        segments: Sequence[int],
        report: Callable[[Damage], None],
        *,
        after: int = 0,
        files: Files | None = None,
    ) -> None:
        self.position = after
        self._directory = directory
        self._segments = segments
        self._report = report
        self._files = files or Files()
        self._segment = self._offset = 0
        self._ranges: list[tuple[Path, int, int]] = []

    def read(self, upto: int, max_bytes: int = READ_BYTES, *, skip_unreadable: bool = True) -> list[Group]:
        """Return the next groups up to the sequence number `upto`, which must be committed, about `max_bytes` of them.

        An empty list: everything up to `upto` has been returned or reported as lost. Raises OSError when the disk
        cannot be read, unless `skip_unreadable`: then the blocks concerned count as damaged.
        """
        groups: list[Group] = []
        try:
            while self.position < upto and sum(group.size for group in groups) < max_bytes:
                segments = list(self._segments)
                index = max(0, bisect_right(segments, self.position + 1) - 1)
                limit = min(upto, segments[index + 1] - 1) if index + 1 < len(segments) else upto
                if segments[index] != self._segment:
                    self._finish_segment(skip_unreadable)
                    self._segment, self._offset = segments[index], 0
                if (segment := self._open(skip_unreadable)) is None:
                    self._lose(limit)
                    continue
                with contextlib.closing(segment):
                    self._read_segment(segment, limit, groups, max_bytes)
        except OSError:
            if not groups:  # otherwise the next call meets the error again: these groups must not get lost
                raise
        return groups

    def _open(self, skip_unreadable: bool) -> Segment | None:  # noqa: FBT001 - passed on
        """Open the current segment; None when it does not exist, or cannot be opened and is skipped."""
        try:
            path = segment_path(self._directory, self._segment)
            return Segment(self._files, path, skip_unreadable=skip_unreadable)
        except OSError as error:
            if skip_unreadable or isinstance(error, FileNotFoundError):
                return None
            raise

    def _finish_segment(self, skip_unreadable: bool) -> None:  # noqa: FBT001 - passed on
        """Note damage in the rest of the current segment, which holds zeros, or frames of a failed commit."""
        if self._segment and (segment := self._open(skip_unreadable)) is not None:
            with contextlib.closing(segment):
                rest = [found for found in segment.walk(self._offset) if not isinstance(found, Frame)]
            self._ranges += [(segment.path, begin, end) for begin, end in rest]

    def _read_segment(self, segment: Segment, limit: int, groups: list[Group], max_bytes: int) -> None:
        """Append the groups of a segment up to the sequence number `limit`, until they have `max_bytes`."""
        if not self._offset:
            self._offset = PREAMBLE_BYTES
            if segment.preamble is None:
                self._ranges.append((segment.path, 0, PREAMBLE_BYTES))
        size = sum(group.size for group in groups)
        while self.position < limit and size < max_bytes:
            frame = segment.frame_at(self._offset)
            if frame is None:
                found, end = segment.search(self._offset)
                if end > self._offset:
                    self._ranges.append((segment.path, self._offset, end))
                self._offset = end
                if found is None:
                    self._lose(limit)
                continue
            self._lose(max(self.position, min(frame.first - 1, limit)))
            if frame.first > self.position + 1:
                break  # it is beyond the limit
            self._offset = frame.end
            if frame.last > self.position and (group := self._decode(segment, frame)) is not None:
                groups.append(group)
                size += group.size
                self.position = frame.last

    def _lose(self, upto: int) -> None:
        """Report the damaged ranges since the last valid frame, with the deliveries up to `upto` as lost."""
        lost = upto - self.position
        ranges, self._ranges = self._ranges, []
        for path, begin, end in ranges:
            self._report(Damage(path, begin, end - begin, self.position + 1, lost, "these bytes are not a valid frame"))
            self.position += lost
            lost = 0
        if lost:
            path = segment_path(self._directory, self._segment)
            self._report(Damage(path, self._offset, 0, self.position + 1, lost, "the frames are missing"))
            self.position += lost

    def _decode(self, segment: Segment, frame: Frame) -> Group | None:
        try:
            deliveries = decode_deliveries(frame.payload)
        except msgspec.MsgspecError:
            deliveries = []
        if len(deliveries) != frame.deliveries:
            self._ranges.append((segment.path, frame.offset, frame.end))
            self._lose(frame.last)
            return None
        deliveries = deliveries[max(0, self.position + 1 - frame.first) :]
        first = frame.last - len(deliveries) + 1
        return Group(first, frame.last, deliveries[0].received_ms, frame.size, frame.total, deliveries)
