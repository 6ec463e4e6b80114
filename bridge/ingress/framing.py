"""Where a request's headers end, and whether its chunks are well formed: what aiohttp does not bound or report.

Pure: raw input goes in, as `Connection` receives it, divided anywhere.
"""

from __future__ import annotations

import re

MAX_HEADER_SECTION_BYTES = 64 * 1024
"""Largest request line with all header fields; more gets 431, also while they are unfinished."""
_HEADER_END = b"\r\n\r\n"
_SPACE = 0x20
_CRLF = b"\r\n"
_CHUNK_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?")


class HeaderSection:
    """The request line and the header fields of the next request."""

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.complete = False
        self.size = 0
        self.size_unknown = False
        """The size is unknown: the input may be the body of a pipelined request that has not been started yet."""
        self.body_start: tuple[bytes, int] | None = None
        """The input that completed the headers, and where the body starts in it; None where that is uncertain."""
        self._tail = b""

    @property
    def too_large(self) -> bool:
        """Whether the headers exceed their limit."""
        return self.size > MAX_HEADER_SECTION_BYTES and not self.size_unknown

    def feed(self, data: bytes, now: float, *, pipelined: bool) -> None:
        """Add input that follows the last request; `pipelined`: a request before this one may not be started yet."""
        if self.complete:
            if self.body_start is not None:
                self.body_start = self.body_start[0] + data, self.body_start[1]
            return
        if self.started_at is None:
            if data[0] <= _SPACE:
                data = data.lstrip(_CRLF)  # empty lines between requests are no headers
                if not data:
                    return
            self.started_at = now
        seen = self._tail + data
        end = seen.find(_HEADER_END)
        if end < 0:
            self.size += len(data)
            self._tail = seen[1 - len(_HEADER_END) :]
        else:
            start = end + len(_HEADER_END) - len(self._tail)
            self.size += start
            self.complete = True
            self.body_start = None if pipelined else (data, start)
        if self.size > MAX_HEADER_SECTION_BYTES and pipelined:
            self.size_unknown = True

    def reset(self) -> None:
        """Expect the next request; `body_start` and `size_unknown` belong to this one until its response."""
        self.started_at = None
        self.complete = False
        self.size = 0
        self._tail = b""


class ChunkFraming:
    """The framing of a chunked body. aiohttp does not report a malformed chunk to the request that waits for it."""

    def __init__(self) -> None:
        self.malformed = False
        self._line = b""
        self._bytes_left = 0  # of the chunk's data and the CRLF after it
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Add raw input of the body, until a chunk is malformed or the last one has arrived."""
        while data and not self._ended and not self.malformed:
            if self._bytes_left > len(_CRLF):
                size = min(len(data), self._bytes_left - len(_CRLF))
                self._bytes_left -= size
                data = data[size:]
            elif self._bytes_left:
                self.malformed = data[0] != _CRLF[-self._bytes_left]
                self._bytes_left -= 1
                data = data[1:]
            else:
                data = self._feed_size(data)

    def _feed_size(self, data: bytes) -> bytes:
        """Add input to the line of a chunk's size; return what follows the line."""
        line, newline, rest = (self._line + data).partition(b"\n")
        match = _CHUNK_SIZE_LINE.fullmatch(line)
        if match is None or (newline and not line.endswith(b"\r")):
            self.malformed = True
        elif newline:
            self._line = b""
            size = int(match[1], 16)
            self._ended = not size
            self._bytes_left = size + len(_CRLF)
        else:
            self._line = line
        return rest
