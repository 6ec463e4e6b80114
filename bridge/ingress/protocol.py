"""One connection of the public port: a thin protocol around the one that aiohttp's `web.Server` makes.

It sees bytes and connections only, and adds what aiohttp does not have: connection limits, a deadline and a size for
a request's headers (408, 431), half-closed connections, lingering close, and the bridge's own response to malformed
requests. aiohttp's protocol gets a `ConnectionTransport` in place of the transport.

Invariants: bytes are passed on in order and unchanged. The request handler calls `begin_request` and `end_request`;
between them, input belongs to the body or to pipelined requests. Only `write` and `reject` send a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from ssl import SSLContext
from typing import Any, NamedTuple, cast

from bridge.ingress.connection_limits import MAX_REJECTED_CONNECTIONS, ConnectionLimiter
from bridge.ingress.framing import HeaderSection
from bridge.ingress.responses import ConnectionTransport, Rejections, RequestRejected

LINGER_SECONDS = 2.0
"""How long input is discarded after the last response. A socket that is closed with unread input resets the
connection, and the sender loses the response."""
PIPELINE_SECONDS = 0.25
"""Input within this time after a response may be the body of a pipelined request that has not been started yet."""
IDLE_LOOP_TURNS = 10
"""Turns of the event loop without a request after which aiohttp has no parsed request left: it needs three to start the
next one."""


class Endpoint(NamedTuple):
    """What the connections of the public port share."""

    make_http_protocol: Callable[[], asyncio.Protocol]
    limiter: ConnectionLimiter
    rejections: Rejections
    request_timeout_seconds: float
    tasks: asyncio.TaskGroup
    tls: bool


class Connection(asyncio.Protocol):
    """The connection of one sender."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport
        self._http: asyncio.Protocol | None = None
        self._authenticated = False
        self._request_active = False
        self._request_ended_at = 0.0
        self._body_waiter: asyncio.Future[None] | None = None
        self._no_request_since: float | None = time.monotonic()
        self._closing_since: float | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._capacity_rejection: RequestRejected | None = None
        self._idle_check: asyncio.Handle | None = None
        self.write_blocked_since: float | None = None
        self.address = ""
        self.headers = HeaderSection()
        self.input_ended = False
        self._input_observer: Callable[[bytes], None] | None = None

    def start_tls(self, accepted: socket.socket, context: SSLContext) -> None:
        """Acquire a place for an accepted socket, then run the TLS handshake, so that handshakes are limited too."""
        with contextlib.suppress(OSError):
            self._acquire(accepted.getpeername())
        self._handshake = self._endpoint.tasks.create_task(self._run_handshake(accepted, context))
        if self._capacity_rejection is not None and self._endpoint.limiter.rejected > MAX_REJECTED_CONNECTIONS:
            self.reject(self._capacity_rejection)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start HTTP; without TLS, acquire a place first."""
        self._transport = cast("asyncio.Transport", transport)
        if self._handshake is None:
            self._acquire(transport.get_extra_info("peername"))
        self._handshake = None
        if self._capacity_rejection is not None:
            self.reject(self._capacity_rejection)
        else:
            self._no_request_since = time.monotonic()
            self._http = self._endpoint.make_http_protocol()
            self._http.connection_made(ConnectionTransport(self, self._transport))

    def data_received(self, data: bytes) -> None:
        """Pass input on to aiohttp, once it is within the limits."""
        if self._closing_since is not None or (not self._request_active and not self._accept_headers(data)):
            return
        if self._input_observer is not None:
            self._input_observer(data)
        if self._http is not None:
            self._http.data_received(data)
        if self._body_waiter is not None:
            self._wake()

    def eof_received(self) -> bool:
        """Keep a half-closed connection open until every complete request has its response.

        Over TLS, asyncio closes the connection at the sender's close_notify, whatever this method returns.
        """
        self.input_ended = True
        self._wake()
        if self._closing_since is not None or self._endpoint.tls:
            return False
        self.close_if_idle()
        return True

    def pause_writing(self) -> None:
        """Note that the sender does not read its responses; aiohttp then reads no further requests."""
        self.write_blocked_since = time.monotonic()
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """Undo `pause_writing`."""
        self.write_blocked_since = None
        if self._http is not None:
            self._http.resume_writing()
        if self.input_ended:
            self.close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request in progress, and free the place."""
        self.input_ended = True
        self._closing_since = self._closing_since or time.monotonic()
        http, self._http = self._http, None
        if http is not None:
            http.connection_lost(exc)
        self._wake()
        self._endpoint.limiter.release(self)

    # Called by the request handler.

    def begin_request(self) -> None:
        """Note that the headers are complete, and that a handler is working on the request."""
        self._request_active = True
        self._no_request_since = None
        self.headers.reset()

    def end_request(self) -> None:
        """Note that the response follows: further input is the next request's."""
        self._request_active = False
        self._input_observer = None
        self._request_ended_at = time.monotonic()
        self.headers.size_unknown = False
        self.headers.body_start = None  # the next request may have arrived with this one's body: its start is unknown
        if self.input_ended:
            self.close_if_idle()

    def authenticate(self) -> None:
        """Note that the sender has sent a valid token."""
        if not self._authenticated:
            self._authenticated = True
            self._endpoint.limiter.authenticate(self)

    def observe_body(self, observer: Callable[[bytes], None]) -> None:
        """Call `observer` with the raw input of the body; not at all when pipelining hides where the body starts."""
        if self.headers.body_start is not None:
            data, start = self.headers.body_start
            observer(data[start:])
            self._input_observer = observer

    async def wait_for_input(self) -> None:
        """Wait until input has been passed on, or none can follow (`input_ended`)."""
        self._body_waiter = asyncio.get_running_loop().create_future()
        try:
            await self._body_waiter
        finally:
            self._body_waiter = None

    def write(self, data: bytes) -> None:
        """Send a response, or a part of it."""
        if self._closing_since is not None:
            raise ConnectionResetError("the sender has disconnected")
        self._transport.write(data)

    # Called by limits, deadlines and shutdown.

    def reject(self, rejection: RequestRejected) -> None:
        """Respond to a request that no handler has seen, and close."""
        if self._closing_since is not None:
            return
        self._endpoint.rejections.record(rejection, self.address)
        crowded = self._capacity_rejection is not None and self._endpoint.limiter.rejected > MAX_REJECTED_CONNECTIONS
        if crowded or self._handshake is not None:
            self.abort()
            return
        if not self._transport.is_closing():
            self._transport.write(self._endpoint.rejections.encode(rejection))
        self.close()

    def evict(self) -> None:
        """Close the connection in favour of another one; its place is free already."""
        if self._closing_since is not None:  # it only lingers
            self.abort()
            return
        self._capacity_rejection = RequestRejected(HTTPStatus.SERVICE_UNAVAILABLE, "connection_evicted")
        self.reject(self._capacity_rejection)

    def enforce_deadlines(self, now: float) -> None:
        """Close the connection when its sender is too slow: with its headers, its first byte or with reading."""
        oldest = now - self._endpoint.request_timeout_seconds
        if self._closing_since is not None:
            if self._closing_since < now - LINGER_SECONDS:
                self.abort()
        elif self.write_blocked_since is not None and self.write_blocked_since < oldest:
            self.abort()
        elif self.headers.started_at is not None:
            if self.headers.started_at < oldest:
                self.reject(RequestRejected(HTTPStatus.REQUEST_TIMEOUT, "header_timeout"))
        elif self._no_request_since is not None and self._no_request_since < oldest:
            self.close()

    def close_if_idle(self, turns: int = IDLE_LOOP_TURNS) -> None:
        """Close the connection if aiohttp has no request of it, also none that is parsed and not started yet."""
        if self._idle_check is not None:
            self._idle_check.cancel()
        if self._closing_since is not None or self._request_active or self.write_blocked_since is not None:
            return
        if turns:
            self._idle_check = asyncio.get_running_loop().call_soon(self.close_if_idle, turns - 1)
        elif not self.headers.size or self.headers.complete:
            self.close()
        elif self.input_ended:
            self.reject(RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_request", "ends within its headers"))

    def close(self) -> None:
        """Close after pending output is sent; until the sender closes too, discard its input for a limited time."""
        if self._closing_since is not None:
            return
        if self._handshake is not None:
            self.abort()
            return
        self._closing_since = time.monotonic()
        self._wake()
        if self.input_ended or not self._transport.can_write_eof():
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; pending output is lost."""
        self._closing_since = self._closing_since or time.monotonic()
        if self._handshake is not None:
            self._handshake.cancel()
        else:
            self._transport.abort()

    # Internal.

    def _acquire(self, peer: Any) -> None:
        self.address = str(peer[0]) if peer else ""
        self._capacity_rejection = self._endpoint.limiter.try_acquire(self)

    async def _run_handshake(self, accepted: socket.socket, context: SSLContext) -> None:
        """Run the TLS handshake; `connection_made` follows where it succeeds."""
        timeout = self._endpoint.request_timeout_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                accepted,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=LINGER_SECONDS,
            )
        except OSError:
            pass  # the sender does not speak TLS, was too slow or has disconnected
        finally:
            if self._handshake is not None:
                accepted.close()
                self.connection_lost(None)

    def _accept_headers(self, data: bytes) -> bool:
        """Count input as headers; return whether it may be passed on."""
        now = time.monotonic()
        self.headers.feed(data, now, pipelined=now - self._request_ended_at < PIPELINE_SECONDS)
        if self.headers.too_large:
            self.reject(RequestRejected(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large"))
        elif not self._authenticated:
            self._endpoint.limiter.record_activity(self, 0 if self.headers.complete else self.headers.size)
        return self._closing_since is None

    def _wake(self) -> None:
        if self._body_waiter is not None and not self._body_waiter.done():
            self._body_waiter.set_result(None)
