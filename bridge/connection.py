"""The public port's connections: what aiohttp's low-level server leaves to be done.

A bound on the time that headers may take, answers of ours to what is not HTTP, and a 200 that costs nothing to make.
What a request means is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from bridge.crowd import Crowd

_log = structlog.stdlib.get_logger()


class Answer(Exception):
    """A request is refused: the status, one word why, whether the connection must close."""

    def __init__(self, status: HTTPStatus, reason: str, *, detail: str = "", close: bool = False) -> None:
        super().__init__(detail or reason)
        self.status = status
        self.reason = reason
        self.close = close


Refuse = Callable[[web.BaseRequest, Answer], web.StreamResponse]
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """One connection. Knows since when it has been reading a request's headers, which aiohttp does not bound."""

    __slots__ = ("_crowd", "_entered", "_refuse", "reading_since")

    def __init__(self, refuse: Refuse, crowd: Crowd, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refuse = refuse
        self._crowd = crowd
        self._entered: asyncio.BaseTransport | None = None
        self.reading_since: float | None = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room for one more."""
        if self._crowd.enter(transport):
            self._entered = transport
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for another."""
        if self._entered is not None:
            self._crowd.leave(self._entered)
            self._entered = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when the first bytes came that belong to no request yet."""
        if self.reading_since is None:
            self.reading_since = time.monotonic()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or a fault of ours."""
        del message
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("internal_error", exc_info=exc)
            return self._refuse(request, Answer(HTTPStatus.SERVICE_UNAVAILABLE, "internal_error", close=True))
        detail = exc.message if isinstance(exc, HttpProcessingError) else ""
        return self._refuse(
            request,
            Answer(
                HTTPStatus.BAD_REQUEST,
                "malformed",
                detail=detail.splitlines()[0] if detail else "",
                close=True,
            ),
        )

    @property
    def busy(self) -> bool:
        """Whether a request is being read or waits for its answer."""
        return self._current_request is not None

    def answer_too_slow(self) -> None:
        """Answer 408 to a sender that does not finish its headers, and close."""
        if self.transport is not None:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\nServer: bridge\r\n\r\n"
            )
        self.force_close()


class _Accepted(web.StreamResponse):
    """The 200 on a connection that stays open: the same bytes each time, written at once.

    One object serves all requests, since it keeps nothing of any. To build a response and its headers anew costs a
    fifth of the whole way to the acknowledgement.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._bytes = b""

    @property
    def keep_alive(self) -> bool:
        """Say that the connection stays open."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the whole answer."""
        second = int(time.time())
        if second != self._second:
            date = formatdate(second, usegmt=True)
            self._bytes = f"HTTP/1.1 200 OK\r\nServer: bridge\r\nContent-Length: 0\r\nDate: {date}\r\n\r\n".encode()
            self._second = second
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the sender is gone")
        transport.write(self._bytes)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote it all."""


ACCEPTED = _Accepted()
"""The answer to a delivery that is safe."""


class Server(web.Server):
    """aiohttp's server, making our connections; `refuse` makes the answer to what never reached `handle`."""

    def __init__(self, handle: Handle, refuse: Refuse, crowd: Crowd, **options: Any) -> None:
        super().__init__(handle)
        self._refuse = refuse
        self._crowd = crowd
        self._options = options

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Connection(self._refuse, self._crowd, self, loop=asyncio.get_running_loop(), **self._options)
