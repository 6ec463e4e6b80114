"""Responses of the public port: 200 and rejections, encoded by the bridge, in one write each.

`RequestRejected` is raised by every check. `Rejections` counts and logs a rejection and returns its response; a flood
cannot fill the log: the first rejection of a reason is logged at once, then one line per reason and second with the
count of the rejections since the line before.

aiohttp calls `prepare` and `write_eof` of the `Response` that the handler returns. `prepare` writes encoded bytes to
the connection, past aiohttp's header serialization, which costs more than the rest of an acknowledgement.
`ConnectionTransport` is the transport that aiohttp gets: what aiohttp itself writes is replaced by a rejection.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from bridge.telemetry.metrics import Metrics
from bridge.webhook import DEFAULT_SOURCE

if TYPE_CHECKING:
    from bridge.ingress.protocol import Connection

_UNQUOTED = re.compile(rb"[^:'\"\r\n]*")
"""The part of aiohttp's error message that quotes nothing: a malformed header may be the token."""

_log = structlog.stdlib.get_logger()


class RequestRejected(Exception):
    """A request is not accepted. `reason` is one word, for the metric, the log and the response."""

    def __init__(self, status: HTTPStatus, reason: str, detail: str = "", *, close: bool = True) -> None:
        super().__init__(detail or reason)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.close = close


class Rejections:
    """Counts, logs and encodes rejections."""

    def __init__(self, metrics: Metrics, retry_after_seconds: int) -> None:
        self._metrics = metrics
        self._retry_after = str(retry_after_seconds)
        self._recent: set[str] = set()
        self._pending: dict[str, tuple[int, dict[str, Any]]] = {}

    def record(self, rejection: RequestRejected, remote: str, source: str = DEFAULT_SOURCE) -> None:
        """Count one rejection, and log it unless its reason was logged within the last second."""
        status, reason = int(rejection.status), rejection.reason
        self._metrics.record_rejection(source, status, reason)
        fields = {"status": status, "source": source, "detail": rejection.detail, "remote": remote}
        if reason in self._recent:
            self._pending[reason] = self._pending.get(reason, (0, fields))[0] + 1, fields
        else:
            self._recent.add(reason)
            _log.warning("request_rejected", reason=reason, count=1, **fields)

    def flush(self) -> None:
        """Log the rejections that `record` only counted, with the fields of the last one. Called once per second."""
        for reason, (count, fields) in self._pending.items():
            _log.warning("request_rejected", reason=reason, count=count, **fields)
        self._recent = set(self._pending)
        self._pending = {}

    def encode(self, rejection: RequestRejected, *, keep_alive: bool = False, with_body: bool = True) -> bytes:
        """Return the response as bytes. `with_body` is False for a HEAD request: only the body's length is sent."""
        headers: dict[str, str] = {hdrs.CONNECTION: "keep-alive" if keep_alive else "close"}
        if rejection.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers[hdrs.ALLOW] = hdrs.METH_POST
        if rejection.status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers[hdrs.RETRY_AFTER] = self._retry_after
        return _encode(rejection.status, headers, f"{rejection.reason}\n", with_body=with_body)


class ConnectionTransport(asyncio.Transport):
    """Transport of aiohttp's protocol: closes the way `Connection` does, and writes nothing of aiohttp."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__()
        self.connection = connection
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the real transport."""
        return self._transport.get_extra_info(name, default)

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

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Respond 400 in place of aiohttp; the detail is the part of its message that quotes nothing."""
        found = _UNQUOTED.match(bytes(data).partition(b"\r\n\r\n")[2])
        detail = found[0].decode(errors="replace") if found else ""
        self.connection.reject(RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_request", detail))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Respond 400 in place of aiohttp."""
        self.write(b"".join(list_of_data))


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
            self._data = _encode(HTTPStatus.OK, self._fields)
        return self._data


def _encode(status: HTTPStatus, headers: Mapping[str, str], text: str = "", *, with_body: bool = True) -> bytes:
    fields = {"Server": "bridge", "Date": formatdate(usegmt=True), "Content-Length": str(len(text)), **headers}
    if text:
        fields["Content-Type"] = "text/plain; charset=utf-8"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n{text if with_body else ''}".encode()


_OK, _OK_HTTP_10 = _OkResponse({}), _OkResponse({hdrs.CONNECTION: "keep-alive"})
"""For HTTP/1.0, keep-alive must be announced."""


def acknowledge(request: web.BaseRequest, *, stopping: bool) -> Response:
    """Return the 200 of a delivery that the queue has reported safe."""
    if stopping or not request.keep_alive:
        return Response(HTTPStatus.OK, _encode(HTTPStatus.OK, {hdrs.CONNECTION: "close"}), keep_alive=False)
    return _OK if request.version >= (1, 1) else _OK_HTTP_10
