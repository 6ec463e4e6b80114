"""Reading the deliveries of a log in order, each once. Nothing here writes.

Input: a directory of segments. Output: groups of deliveries, and a `Damage` for every byte range that is not a valid
frame and for every sequence number that no valid frame holds.

Rules of reading: a segment named n ends all earlier ones at n - 1, since what they hold beyond that is of a commit
that failed. Each frame must begin with the expected sequence number. Behind damage, reading continues at the next valid
frame; the numbers in between are lost, and how many they are is known exactly.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import msgspec

from bridge.queue.files import Files
from bridge.queue.frame import PREAMBLE_BYTES, Frame, decode_deliveries
from bridge.queue.interface import Group
from bridge.queue.segment import Damage, Segment, is_genuine, segment_paths

READ_BYTES = 256 * 1024
"""About how much one `read` returns."""


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
