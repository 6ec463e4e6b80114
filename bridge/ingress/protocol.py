"""The public port's connections: what aiohttp's low-level server leaves to be done.

A bound on the time that headers may take, answers of ours to what is not HTTP, and a short way for what arrives whole.
What a request means is not known here.

The short way: a request that arrives with its body in one piece, while nothing else is in progress, as nearly every
delivery does, is offered to the ingress at once. What that takes is answered without a task, a request object and five
turns of the event loop: about a fifth of the cost of an acknowledgement. All else goes aiohttp's way, to the handler.
Answers are in the order of the requests: what arrives before the answer was given waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from bridge.ingress.connection_limits import ConnectionLimiter

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
Deliver = Callable[["Connection", Any, Any], "asyncio.Future[None] | None"]
"""Takes a request that is whole, its head and its body, or (None) does not; answers when the future is done."""


class Connection(RequestHandler):
    """One connection. Knows since when it has been reading a request's headers, which aiohttp does not bound."""

    __slots__ = ("_answer", "_crowd", "_deliver", "_entered", "_held", "_held_back", "_refuse", "reading_since")

    def __init__(
        self, refuse: Refuse, deliver: Deliver, crowd: ConnectionLimiter, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._refuse = refuse
        self._deliver = deliver
        self._crowd = crowd
        self._entered: str | None = None
        self._parser: Any = _Parser(self._parser, self._offer)
        self._answer: asyncio.Future[None] | None = None
        self._held = b""
        self._held_back = False
        self.reading_since: float | None = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room for one more."""
        self._entered = self._crowd.enter(transport)
        if self._entered is not None:
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for another."""
        if self._entered is not None:
            self._crowd.leave(self._entered)
            self._entered = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when the first bytes came that belong to no request yet."""
        if self._answer is not None:  # the next request must not overtake
            self._held += data
            self._held_back = True
            self._pause_transport_reading()
            return
        if self.reading_since is None and self._current_request is None:
            self.reading_since = time.monotonic()
        super().data_received(data)

    def _offer(self, message: Any, payload: Any) -> bool:
        """Give the ingress a request that arrived whole; return whether it took it."""
        waiting = self._waiter is not None and not self._waiter.done() and not self._messages
        closing = self._force_close or self._close or message.should_close
        whole = payload.is_eof() and payload.exception() is None and not self._reading_paused
        if closing or message.upgrade or self.writing_paused or not waiting or not whole:
            return False
        self._answer = self._deliver(self, message, payload)
        if self._answer is None:
            return False
        self.reading_since = None
        return True

    def answer(self, data: bytes, *, close: bool) -> None:
        """Answer the request that was taken at once; then it is the turn of what came meanwhile."""
        self._answer = None
        if self.transport is None:
            return
        self.transport.write(data)
        if close:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._held:
            held, self._held = self._held, b""
            self.data_received(held)
        if self._held_back and self._answer is None and not self._reading_paused and not self._buffer_paused:
            self._held_back = False
            self._resume_transport_reading()

    def _process_keepalive(self) -> None:
        """Close an idle connection; one whose delivery waits for its answer is not idle."""
        if self._answer is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """Let the delivery that is waiting for the disk have its answer."""
        if self._answer is not None:
            await asyncio.wait([self._answer], timeout=timeout)
        await super().shutdown(timeout)

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
                "malformed_request",
                detail=detail.splitlines()[0] if detail else "",
                close=True,
            ),
        )

    @property
    def busy(self) -> bool:
        """Whether a request is being read or waits for its answer."""
        return self._current_request is not None or self._answer is not None

    def send_request_timeout(self) -> None:
        """Answer 408 to a sender that does not finish its headers, and close."""
        if self.transport is not None:
            self.reading_since = None
            self.transport.write(encoded(HTTPStatus.REQUEST_TIMEOUT, {"Connection": "close"}))
        self.force_close()


def encoded(status: HTTPStatus, headers: Mapping[str, str], text: str = "") -> bytes:
    """Return an answer as it goes over the wire."""
    fields = {"Server": "bridge", "Date": formatdate(usegmt=True), "Content-Length": str(len(text)), **headers}
    if text:
        fields["Content-Type"] = "text/plain; charset=utf-8"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {status.phrase}\r\n{head}\r\n{text}".encode()


class _Parser:
    """aiohttp's parser, which offers a single message before it returns it."""

    __slots__ = ("_feed", "_offer", "feed_eof", "message_consumed", "pause_reading", "set_upgraded")

    def __init__(self, parser: Any, offer: Callable[[Any, Any], bool]) -> None:
        self._feed = parser.feed_data
        self._offer = offer
        self.feed_eof = parser.feed_eof
        self.message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Return the messages that are not taken."""
        found: tuple[Any, bool, bytes] = self._feed(data)
        messages = found[0]
        if len(messages) == 1 and self._offer(*messages[0]):
            self.message_consumed()
            return (), *found[1:]
        return found


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
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the sender is gone")
        transport.write(self.now())
        await request.protocol._drain_helper()  # noqa: SLF001 - as aiohttp's own answers do: a sender that reads nothing

    def now(self) -> bytes:
        """Return the whole answer, with the present second."""
        second = int(time.time())
        if second != self._second:
            self._bytes = encoded(HTTPStatus.OK, {})
            self._second = second
        return self._bytes

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote it all."""


ACCEPTED = _Accepted()
"""The answer to a delivery that is safe."""


class Server(web.Server):
    """aiohttp's server, making our connections; `refuse` makes the answer to what never reached `handle`."""

    def __init__(
        self, handle: Handle, refuse: Refuse, deliver: Deliver, crowd: ConnectionLimiter, **options: Any
    ) -> None:
        super().__init__(handle)
        self._refuse = refuse
        self._deliver = deliver
        self._crowd = crowd
        self._options = options

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        common = (self._refuse, self._deliver, self._crowd, self)
        return Connection(*common, loop=asyncio.get_running_loop(), **self._options)
