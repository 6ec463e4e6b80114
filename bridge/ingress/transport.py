"""The transport that aiohttp's protocol gets: closes the way `Connection` does, and writes nothing itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bridge.ingress.rejections import RequestRejected

if TYPE_CHECKING:
    from bridge.ingress.protocol import Connection

_UNQUOTED = re.compile(rb"[^:'\"\r\n]*")
"""The part of aiohttp's error message that quotes nothing: a malformed header may be the token."""


class ConnectionTransport(asyncio.Transport):
    """Transport of aiohttp's protocol.

    The responses of the request handler are written by `Connection.write`. What aiohttp writes is its own response to
    a request that it cannot parse; the bridge's response takes its place.
    """

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__()
        self.connection = connection
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the real transport."""
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Respond 400 in place of aiohttp; the detail is the part of its message that quotes nothing."""
        found = _UNQUOTED.match(bytes(data).partition(b"\r\n\r\n")[2])
        detail = found[0].decode(errors="replace") if found else ""
        self.connection.reject(RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_request", detail))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Respond 400 in place of aiohttp."""
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Return whether the connection closes."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection after pending output is sent."""
        self.connection.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self.connection.abort()

    def pause_reading(self) -> None:
        """Stop reading from the sender."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the sender again."""
        self._transport.resume_reading()
