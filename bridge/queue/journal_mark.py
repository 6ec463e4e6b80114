"""What the journal should hold, told apart from its file: so that acknowledged deliveries that are gone are noticed.

SQLite keeps what was committed last in its write-ahead log. When that is lost, or a bit of it flips, the file is valid
and short, and SQLite cannot know. So two sequence numbers stand in a small file beside it: the last one that was
committed, written after the commit, and up to where groups were removed, written before. A process that dies in between
leaves a mark that asks for too little. After a power cut, or where a version that knows no mark used the journal, one
that was left behind can ask for too much: a false alarm, which costs no delivery.

Written through a memory map: no system call, no sync. The kernel keeps it when the process dies; after a power cut it
may be older than the journal, and then notices less.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

SUFFIX = "-mark"
_FORM = struct.Struct("@QQ")  # in the machine's own order each number is one store, whole or not there


class Mark:
    """The mark of one journal file. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path.with_name(path.name + SUFFIX), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _FORM.size:
                os.pwrite(descriptor, bytes(_FORM.size), 0)  # a full disk must fail here, not at a write to the map
            self._map = mmap.mmap(descriptor, _FORM.size)
        finally:
            os.close(descriptor)
        self._last: int
        self._removed: int
        self._last, self._removed = _FORM.unpack_from(self._map)

    def missing(self, last: int) -> int:
        """Return how many deliveries a file should still hold after its last, `last`."""
        return max(0, self._last - max(last, self._removed))

    def begin(self, last: int, removed: int) -> None:
        """Take over what an opened file holds."""
        self._last, self._removed = last, removed
        _FORM.pack_into(self._map, 0, last, removed)

    def removing(self, upto: int) -> None:
        """Note, before it is committed, that groups up to a sequence number are removed."""
        if upto > self._removed:
            self.begin(self._last, upto)

    def committed(self, last: int) -> None:
        """Note, after it is committed, the last sequence number."""
        self.begin(last, self._removed)

    def close(self) -> None:
        """Let the map go."""
        self._map.close()
