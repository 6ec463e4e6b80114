"""Responses of the public port, encoded by the bridge: one write each, and no name of the server software.

aiohttp calls `prepare` and `write_eof` of the response that the handler returns. `Response` writes its bytes in
`prepare`, past aiohttp's header serialization, which costs more than the rest of an acknowledgement.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bridge.ingress.transport import ConnectionTransport


class Response(web.StreamResponse):
    """An encoded response. It keeps no state of a request, so one object may serve many."""

    def __init__(self, status: HTTPStatus, data: bytes, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._data = data
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after this response."""
        return self._stays_open

    def render(self) -> bytes:
        """Return the bytes of the response."""
        return self._data

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the whole response, then wait while the sender does not read."""
        transport = request.transport
        if not isinstance(transport, ConnectionTransport):
            raise ConnectionResetError("the sender has disconnected")
        transport.connection.write(self.render())
        if transport.connection.write_blocked_since is not None:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written everything."""


class _OkResponse(Response):
    """The 200 of a connection that stays open, encoded once per second."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(HTTPStatus.OK, b"", keep_alive=True)
        self._fields = headers
        self._second = 0

    def render(self) -> bytes:
        """Return the response with the current date."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._data = encode_response(HTTPStatus.OK, self._fields)
        return self._data


def encode_response(status: HTTPStatus, headers: Mapping[str, str], text: str = "", *, with_body: bool = True) -> bytes:
    """Return a response as bytes. `with_body` is False for a HEAD request: only the length of the text is sent."""
    fields = {"Server": "bridge", "Date": formatdate(usegmt=True), "Content-Length": str(len(text)), **headers}
    if text:
        fields["Content-Type"] = "text/plain; charset=utf-8"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n{text if with_body else ''}".encode()


OK_RESPONSE = _OkResponse({})
"""Acknowledges a delivery on a connection that stays open."""
OK_RESPONSE_HTTP_10 = _OkResponse({"Connection": "keep-alive"})
"""The same for HTTP/1.0, where keep-alive must be announced."""
