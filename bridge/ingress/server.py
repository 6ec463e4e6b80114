"""The public port: accepts deliveries, enqueues them durably and responds; rejects everything else.

A request is checked in this order, and the first failing check determines the response: size and form of the headers
(431, 400), path (404), method (405), token (401), source (404), encoding (415), size (413), time (408), completeness
(400), queue (503 with Retry-After). A request that passes is acknowledged with 200 once the queue reports it safe. The
body is not parsed: a delivery that is not JSON is still a delivery.

Built on aiohttp's `web.Server` with one handler, `WebhookServer.handle_request`. What aiohttp leaves open on the
level of bytes and connections is done in `protocol.Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from bridge.config.address import format_url
from bridge.config.settings import Settings
from bridge.errors import BridgeError, DeliveryRejected
from bridge.event import Delivery
from bridge.ingress.body import check_body_headers, decompress, read_body
from bridge.ingress.certificate import Certificate
from bridge.ingress.connection_limits import ConnectionLimiter
from bridge.ingress.framing import MAX_HEADER_SECTION_BYTES
from bridge.ingress.graceful_shutdown import drain_connections
from bridge.ingress.protocol import Connection, Endpoint
from bridge.ingress.responses import ConnectionTransport, Rejections, RequestRejected, Response, acknowledge
from bridge.ingress.tokens import Tokens
from bridge.queue.interface import DeliveryQueue
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.tracing import Tracing
from bridge.webhook import DEFAULT_SOURCE, TOKEN_HEADER, WEBHOOK_PATH, is_source_name, source_in_path

HOUSEKEEPING_INTERVAL_SECONDS = 1.0
"""How often deadlines are enforced, rejections logged and the certificate's files checked."""
LISTEN_BACKLOG = 1024
"""Connections that the kernel queues until they are accepted."""
MAX_CACHED_PATHS = 1000
"""Paths whose source is cached; only a request with a valid token adds one."""
_TOKEN_HEADER = istr(TOKEN_HEADER)
_DISCONNECTED = Response(HTTPStatus.BAD_REQUEST, b"", keep_alive=False)
"""Returned to aiohttp when the sender has disconnected; never sent."""

_AIOHTTP_LOG = logging.getLogger("bridge.ingress.aiohttp")
_AIOHTTP_LOG.disabled = True  # it quotes malformed headers, which may hold a token; rejections are logged here

_log = structlog.stdlib.get_logger()


class WebhookServer:
    """Accepts deliveries into a queue."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        queue: DeliveryQueue,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._queue = queue
        self._metrics = metrics
        self._max_body_bytes = settings.max_body_bytes
        self._source_by_path = {WEBHOOK_PATH: DEFAULT_SOURCE}
        self._certificate = Certificate.from_settings(settings)
        self._stopping = False
        self._traceparent = str if tracing is None else tracing.traceparent
        self._handler = self.handle_request if tracing is None else tracing.wrap_handler(self.handle_request)
        self._rejections = Rejections(metrics, settings.retry_after_seconds)
        self._limiter = ConnectionLimiter(settings.max_connections, settings.max_connections_per_address)
        metrics.register_gauge("bridge_connections", "Open connections of the public port.", lambda: self._limiter.size)
        metrics.register_gauge(
            "bridge_requests_in_flight", "Requests of the public port without a response.", lambda: self._in_flight
        )
        self._in_flight = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Accept deliveries while the block runs; yields the URL. On leaving, requests in progress are finished.

        Raises BridgeError when the address is not available.
        """
        settings = self._settings
        http = web.Server(
            self._handler,
            access_log=None,
            logger=_AIOHTTP_LOG,
            auto_decompress=False,
            keepalive_timeout=settings.keepalive_timeout_seconds,
            lingering_time=0,
            max_headers=settings.max_headers,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
        )
        listener = self._listen()
        async with asyncio.TaskGroup() as tasks:
            endpoint = Endpoint(
                make_http_protocol=http,
                limiter=self._limiter,
                rejections=self._rejections,
                request_timeout_seconds=settings.request_timeout_seconds,
                tasks=tasks,
                tls=self._certificate is not None,
            )
            housekeeping = tasks.create_task(self._housekeeping(), name="ingress housekeeping")
            accepting = tasks.create_task(self._accept_all(listener, endpoint), name="ingress accept")
            try:
                yield format_url(listener.getsockname(), "https" if self._certificate else "http")
                self._stopping = True
                accept = partial(self._accept, endpoint)
                await drain_connections(listener, accepting, accept, self._limiter, settings.shutdown_timeout_seconds)
            finally:
                for task in (accepting, housekeeping):
                    task.cancel()
                for connection in self._limiter.open:
                    connection.abort()
                listener.close()
                await http.shutdown(1.0)
                self._rejections.flush()

    async def _accept_all(self, listener: socket.socket, endpoint: Endpoint) -> None:
        """Accept connections until this task is cancelled."""
        loop = asyncio.get_running_loop()
        if self._certificate is None:
            server = await loop.create_server(partial(Connection, endpoint), sock=listener, backlog=LISTEN_BACKLOG)
            try:
                await loop.create_future()
            finally:
                server.close()
        else:
            await self._accept_for_tls(listener, endpoint)

    async def _accept_for_tls(self, listener: socket.socket, endpoint: Endpoint) -> None:
        """Accept connections without asyncio's server: a handshake must not start before it has a place."""
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        with listener:
            while True:
                try:
                    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError:  # no file descriptor is free, or the sender has disconnected
                    await asyncio.sleep(0.1)
                else:
                    await self._accept(endpoint, accepted)

    async def _accept(self, endpoint: Endpoint, accepted: socket.socket) -> None:
        """Start the connection of an accepted socket."""
        if self._certificate is not None:
            accepted.setblocking(False)  # noqa: FBT003 - the standard library's signature
            Connection(endpoint).start_tls(accepted, self._certificate.context)
            return
        with contextlib.suppress(OSError):  # the sender has disconnected
            await asyncio.get_running_loop().connect_accepted_socket(partial(Connection, endpoint), accepted)

    def _listen(self) -> socket.socket:
        host, port = self._settings.public_address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server(
                (host, port), family=family, backlog=LISTEN_BACKLOG, reuse_port=self._settings.reuse_port
            )
        except OSError as error:
            raise BridgeError(
                f"cannot listen on {self._settings.listen}: {error.strerror}. Fix: set BRIDGE_LISTEN to a free address."
            ) from error

    async def _housekeeping(self) -> None:
        """Enforce deadlines, log counted rejections, and load a renewed certificate."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_INTERVAL_SECONDS)
            self._rejections.flush()
            if self._certificate is not None:
                self._certificate.refresh()
            now = time.monotonic()
            for connection in self._limiter.open:
                connection.enforce_deadlines(now)

    async def handle_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request."""
        began = time.perf_counter()
        transport = request.transport
        if not isinstance(transport, ConnectionTransport):
            return _DISCONNECTED
        connection = transport.connection
        connection.begin_request()
        self._in_flight += 1
        source = DEFAULT_SOURCE
        try:
            source = self._authorize_and_resolve_source(request, connection)
            encoding = self._check_headers(request, connection)
            content = request.content
            if content.is_eof() and content.exception() is None:
                body = content.read_nowait()  # it has arrived with its headers, as nearly every delivery does
            else:
                body = await read_body(
                    request, connection, self._max_body_bytes, self._settings.request_timeout_seconds
                )
            if len(body) > self._max_body_bytes:
                raise RequestRejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large")  # noqa: TRY301 - one place responds to all rejections
            if encoding:
                body = decompress(body, encoding, self._max_body_bytes)
            await self._queue.append(Delivery(time.time_ns() // 1_000_000, source, body, self._traceparent()))
        except RequestRejected as rejection:
            return self._reject(request, connection, rejection, source)
        except DeliveryRejected as error:
            unavailable = RequestRejected(HTTPStatus.SERVICE_UNAVAILABLE, error.reason, str(error), close=False)
            return self._reject(request, connection, unavailable, source)
        except Exception:  # noqa: BLE001 - whatever it is, the sender gets a response and can retry
            _log.exception("internal_error")
            fault = RequestRejected(HTTPStatus.SERVICE_UNAVAILABLE, "internal_error")
            return self._reject(request, connection, fault, source)
        finally:
            self._in_flight -= 1
            connection.end_request()
        self._metrics.record_acknowledgement(source, len(body), time.perf_counter() - began)
        return acknowledge(request, stopping=self._stopping)

    def _authorize_and_resolve_source(self, request: web.BaseRequest, connection: Connection) -> str:
        """Return the source of an authorized request, or raise RequestRejected."""
        cached = self._source_by_path.get(request.raw_path)
        source = cached or source_in_path(request.path)
        if source is None:
            raise RequestRejected(HTTPStatus.NOT_FOUND, "unknown_path")
        if request.method != hdrs.METH_POST:
            raise RequestRejected(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
        if reason := self._token_error(request.headers):
            raise RequestRejected(HTTPStatus.UNAUTHORIZED, reason)
        connection.authenticate()
        if cached is None:
            allowed = self._settings.allowed_sources
            if not is_source_name(source) or (allowed and source not in {*allowed, DEFAULT_SOURCE}):
                raise RequestRejected(HTTPStatus.NOT_FOUND, "unknown_source")
            if len(self._source_by_path) < MAX_CACHED_PATHS:
                self._source_by_path[request.raw_path] = source
        return source

    def _token_error(self, headers: CIMultiDictProxy[str]) -> str | None:
        """Return what is wrong with a request's token, None when it is valid."""
        if self._tokens.authentication_disabled:
            return None
        presented = headers.getall(_TOKEN_HEADER, ())
        if len(presented) == 1 and self._tokens.accepts(presented[0]):
            return None
        return "invalid_token" if presented else "missing_token"

    def _check_headers(self, request: web.BaseRequest, connection: Connection) -> str:
        """Return the content encoding, or raise RequestRejected for what the headers exclude."""
        if connection.headers.size_unknown:
            size = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
            if size > MAX_HEADER_SECTION_BYTES:
                raise RequestRejected(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
        return check_body_headers(request, self._max_body_bytes)

    def _reject(
        self, request: web.BaseRequest, connection: Connection, rejection: RequestRejected, source: str
    ) -> Response:
        """Record a rejection and return its response."""
        self._rejections.record(rejection, connection.address, source)
        keep_alive = request.keep_alive and not rejection.close and not self._stopping and request.content.is_eof()
        with_body = request.method != hdrs.METH_HEAD
        data = self._rejections.encode(rejection, keep_alive=keep_alive, with_body=with_body)
        return Response(rejection.status, data, keep_alive=keep_alive)
