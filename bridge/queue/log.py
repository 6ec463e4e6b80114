"""An append-only log of deliveries in one directory: segments of frames, each frame checksummed and synced.

Input: groups of deliveries, and up to where they are settled. Output: a frame on disk for each group; a `LogReader`
reads them. All methods block. One thread uses a log, but any may call `settle`, and readers have files of their own.
The directory holds the segments (`<first sequence number>.log`). Opening the log never writes to one of them: the first
frame of each process begins a new one.

Invariants:
1. When `append` returns, its frame and everything needed to find it are synced.
2. A failed write or sync is not repeated on the same file. The segment is abandoned, and the next frame begins a new
   one with the same sequence number: by the rule of reading (`segment.py`), what failed is never read.
3. A new segment is named `new` until its preamble and first frame are synced. It is then renamed, and the next frame is
   written only when the directory is synced. A segment's space is reserved when it is created: a full disk fails no
   commit inside it.
4. Sequence numbers never restart: the last segment is never deleted, another one only after a synced frame says that
   everything in it is settled.
5. Damage is reported once, with a copy of its bytes in quarantine (`<prefix><segment>@<offset>-<checksum>`). A file
   whose bytes could not be copied is neither deleted nor replaced: it is moved to quarantine itself.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.event import Delivery
from bridge.queue.files import Files
from bridge.queue.frame import (
    HEADER_BYTES,
    PREAMBLE_BYTES,
    State,
    encode_deliveries,
    encode_frame,
    encode_preamble,
)
from bridge.queue.interface import Group
from bridge.queue.log_reader import LogReader
from bridge.queue.segment import Damage, Segment, recover, segment_path

SEGMENT_BYTES = 64 * 1024 * 1024
MIN_SEGMENT_BYTES = 64 * 1024
RESERVED_BYTES = 64 * HEADER_BYTES
"""Space in each segment for frames without deliveries: on a full disk, settling still works and frees segments."""
NEW_NAME = "new"
"""Name of a segment until its first frame is synced."""


class Log:
    """One log. `last` is the last sequence number, `total` the running total of bytes, `state` what is settled.

    `abandoned` counts the segments given up after a failed write or sync. `report` may be called by a reader's thread.
    """

    def __init__(  # noqa: PLR0913 - names and limits of one log
        self,
        directory: Path,
        quarantine: Path,
        report: Callable[[Damage], None],
        *,
        files: Files | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        prefix: str = "",
    ) -> None:
        """Open the log, creating the directory. Raises OSError, or UnsupportedJournalVersion.

        `prefix` distinguishes the files of several logs in one quarantine.
        """
        self.abandoned = 0
        self._directory = directory
        self._quarantine = quarantine
        self._report = report
        self._files = files or Files()
        self._segment_bytes = segment_bytes
        self._prefix = prefix
        self._descriptor: int | None = None
        self._size = self._offset = 0
        self._files.mkdir(directory)
        found = recover(self._files, directory, sync=True)
        self.last, self.total, self.state = found.last, found.total, found.state
        self._recorded, self._oldest_ms, self._checkpointed = found.state, found.state.oldest_ms, found.checkpointed
        self._segments = found.segments
        self._not_copied = found.unreadable
        self._untrimmed = (segment_path(directory, found.segments[-1]), found.end) if found.end else None
        for damage in found.not_segments:
            self._quarantine_file(damage)
        for damage in found.damage:
            self._on_damage(damage)

    def reader(self, after: int) -> LogReader:
        """Return a reader of the deliveries behind a sequence number; its damage is quarantined and reported."""
        return LogReader(self._directory, self._segments, self._on_damage, after=after, files=self._files)

    @property
    def oldest_ms(self) -> int:
        """Receipt of the oldest pending delivery, or a little earlier; 0 when it is unknown."""
        return self._oldest_ms if self._recorded == self.state else self.state.oldest_ms or self._oldest_ms

    def free_bytes(self) -> int:
        """Return the free space of the log's disk."""
        return self._files.free_bytes(self._directory)

    def close(self) -> None:
        """Close the segment. What is not recorded yet is read again after the next open."""
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None

    # Appending.

    def append(self, deliveries: Sequence[Delivery]) -> Group:
        """Write deliveries as one frame and sync it. Raises OSError: they must not be acknowledged."""
        payload = encode_deliveries(deliveries)
        size = HEADER_BYTES + len(payload)
        received_ms = deliveries[0].received_ms
        first, last, total = self.last + 1, self.last + len(deliveries), self.total + size
        self._write(len(deliveries), total, received_ms, payload)
        self.last, self.total = last, total
        return Group(first, last, received_ms, size, total, list(deliveries))

    def settle(self, state: State) -> None:
        """Note up to where everything is on Kafka; the next frame records it and deletes settled segments."""
        self.state = state

    def checkpoint(self, *, force: bool = False, new_segment: bool = False) -> bool:
        """Record the state in a frame without deliveries, unless the last frame did; return whether one was written.

        `force` writes it always; `new_segment` in a new segment, which needs free disk space.

        That frame also confirms the deliveries before it: without it, damage to the last frame would look like
        a write that a power cut interrupted, and the number of lost deliveries would not be known.
        """
        needed = force or self._recorded != self.state or not self._checkpointed
        if needed:
            self._write(0, self.total, 0, b"", new_segment=new_segment)
        return needed

    def check_segment(self) -> None:
        """Give the segment up and raise FileNotFoundError when its file was removed."""
        if self._descriptor is not None and self._files.is_removed(self._descriptor):
            self._abandon()
            path = segment_path(self._directory, self._segments[-1])
            raise FileNotFoundError(errno.ENOENT, "the segment was removed while the bridge was running", str(path))

    def _write(self, count: int, total: int, received_ms: int, payload: bytes, *, new_segment: bool = False) -> None:
        state = self.state
        if count and state.settled >= self.last:
            oldest_ms = received_ms
        else:
            oldest_ms = (state != self._recorded and state.oldest_ms) or self._oldest_ms
        state_to_write = state._replace(oldest_ms=oldest_ms)
        size = HEADER_BYTES + len(payload)
        full = self._offset + size + (RESERVED_BYTES if count else 0) > self._size
        if self._descriptor is None or full or new_segment:
            self._descriptor = self._begin_segment(size, state_to_write)
        segment = self._segments[-1]
        frame = encode_frame(segment, self._offset, count, self.last + 1, total, received_ms, state_to_write, payload)
        try:
            self._files.pwrite(self._descriptor, frame, self._offset)
            self._files.fsync(self._descriptor)
        except OSError:
            self._abandon()
            raise
        self._offset += size
        self._oldest_ms, self._recorded, self._checkpointed = oldest_ms, state, not count
        self._delete_settled(state.settled)

    def _abandon(self) -> None:
        self.abandoned += 1
        self.close()

    def _begin_segment(self, needed: int, state: State) -> int:
        """Create the segment for the next sequence number and return its descriptor.

        Raises OSError: the segment before it stays in use, unless the new one may have its name already.
        """
        first = self.last + 1
        new, path = self._directory / NEW_NAME, segment_path(self._directory, first)
        limit = max(MIN_SEGMENT_BYTES, min(self._segment_bytes, self.free_bytes() // 8))
        size = max(limit, PREAMBLE_BYTES + HEADER_BYTES + needed + RESERVED_BYTES)
        head = encode_frame(first, PREAMBLE_BYTES, 0, first, self.total, 0, state, b"")
        descriptor = self._files.create(new)
        renaming = False
        try:
            self._files.fallocate(descriptor, size)
            self._files.pwrite(descriptor, encode_preamble(first, size) + head, 0)
            self._files.fsync(descriptor)
            if first in self._not_copied:
                self._files.link(path, self._unused_name(path))
                self._not_copied.discard(first)
            renaming = True
            self._files.rename(new, path)
            self._files.fsync_directory(self._directory)
        except OSError:
            self._files.close(descriptor)
            with contextlib.suppress(OSError):  # the next segment replaces it
                self._files.unlink(new)
            if renaming and path.name in self._files.names(self._directory):
                self._abandon()
            raise
        self.close()
        self._size, self._offset = size, PREAMBLE_BYTES + HEADER_BYTES
        if first not in self._segments[-1:]:
            self._segments.append(first)
        if self._untrimmed is not None and self._untrimmed[0] != path:
            with contextlib.suppress(OSError):  # costs disk space until the segment is deleted
                self._files.truncate(*self._untrimmed)
        self._untrimmed = None
        return descriptor

    def _delete_settled(self, settled: int) -> None:
        while len(self._segments) > 1 and self._segments[1] - 1 <= settled:
            path = segment_path(self._directory, self._segments[0])
            try:
                if self._segments[0] in self._not_copied:
                    self._files.rename(path, self._unused_name(path))
                else:
                    self._files.unlink(path)
            except FileNotFoundError:
                pass
            except OSError:
                return  # again after the next frame
            del self._segments[0]

    # Damage.

    def _on_damage(self, damage: Damage) -> None:
        """Copy the damaged bytes to quarantine and report them; the same bytes again only with what they cost."""
        if damage.length:
            try:
                damage = self._copy(damage)
            except OSError:
                self._not_copied.add(int(damage.path.stem))
        if damage.lost or not damage.repeated:
            self._report(damage)

    def _copy(self, damage: Damage) -> Damage:
        """Return the damage with the quarantined copy of its bytes, made unless it exists."""
        self._files.mkdir(self._quarantine)
        with contextlib.closing(Segment(self._files, damage.path)) as segment:
            target = self._quarantine / f"{self._prefix}{segment.range_name(damage.offset, damage.length)}"
            if target.exists():
                return damage._replace(copy=target, repeated=True)
            part = target.with_name(f"{target.name}.part")
            descriptor = self._files.create(part)
            try:
                for at, chunk in segment.chunks(damage.offset, damage.length):
                    self._files.pwrite(descriptor, chunk, at - damage.offset)
                self._files.fsync(descriptor)
            finally:
                self._files.close(descriptor)
        self._files.rename(part, target)
        return damage._replace(copy=target)

    def _quarantine_file(self, damage: Damage) -> None:
        """Move a file that is not a segment to quarantine, and report it."""
        try:
            target = self._unused_name(damage.path)
            self._files.rename(damage.path, target)
            damage = damage._replace(copy=target)
        except OSError:
            self._not_copied.add(int(damage.path.stem))
        self._report(damage)

    def _unused_name(self, path: Path) -> Path:
        """Return an unused name in quarantine for a whole file."""
        self._files.mkdir(self._quarantine)
        target = self._quarantine / f"{self._prefix}{path.name}"
        while target.exists():
            target = target.with_name(f"{target.name}+")
        return target
