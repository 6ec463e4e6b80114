"""The ingress: the public port. It does the least that makes a 200 true, and answers everything else at once.

A request passes these gates in order, and the first that is shut answers: path (404), method (405), token (401),
source (404), size (413), time (408), room in the journal (503 + Retry-After). What passes all of them gets its 200
when the backlog says that the delivery is safe. Nothing is parsed: a body that is not JSON is still a delivery.

Built on aiohttp's low-level server: there are two paths, and no router or middleware is needed to tell them apart.
`deliver` takes the usual delivery, which arrives whole and gets its 200; `handle` knows every answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy, istr

from bridge.config.address import format_url
from bridge.config.settings import Settings
from bridge.errors import BridgeError, DeliveryRejected
from bridge.event import Delivery
from bridge.ingress.certificate import Certificate
from bridge.ingress.connection_limits import ConnectionLimiter
from bridge.ingress.graceful_shutdown import leave
from bridge.ingress.protocol import ACCEPTED, Answer, Connection, Server, encoded
from bridge.ingress.tokens import Tokens
from bridge.queue.interface import DeliveryQueue
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.tracing import Tracing
from bridge.webhook import DEFAULT_SOURCE, TOKEN_HEADER, WEBHOOK_PATH

_TOKEN_HEADER = istr(TOKEN_HEADER)
HOUSEKEEPING_INTERVAL_SECONDS = 1.0
"""How often connections are looked at for senders that are too slow with their headers."""
LINGER_SECONDS = 2.0
"""How long a refused body is read on and thrown away, so that its sender can read the answer."""
LISTEN_BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
MAX_CACHED_SOURCES = 1000
"""Paths whose source is remembered; only a valid token adds one."""
_SOURCE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_SOURCE_LENGTH = 64

_log = structlog.stdlib.get_logger()


class WebhookServer:
    """Accepts deliveries into a backlog."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        backlog: DeliveryQueue,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._backlog = backlog
        self._metrics = metrics
        self._sources = {
            WEBHOOK_PATH: DEFAULT_SOURCE,
            **{f"{WEBHOOK_PATH}/{name}": name for name in settings.allowed_sources},
        }
        self._certificate = Certificate.from_settings(settings)
        self._stopping = False
        self._traced = tracing is not None
        self._traceparent = str if tracing is None else tracing.traceparent
        self._handler = self.handle if tracing is None else tracing.wrap_handler(self.handle)
        self._crowd = ConnectionLimiter(settings, metrics)
        metrics.register_gauge("bridge_connections", "Open connections of the public port.", lambda: self._crowd.size)
        self._server = Server(
            self._handler,
            self.refuse,
            self.deliver,
            self._crowd,
            access_log=None,
            keepalive_timeout=settings.keepalive_timeout_seconds,
            lingering_time=LINGER_SECONDS,
            max_headers=settings.max_headers,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
        )

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Accept deliveries while the block runs; yields the URL. Leaving it finishes what is in flight.

        Raises BridgeError when the address cannot be had.
        """
        host, port = self._settings.public_address
        runner = web.ServerRunner(self._server, shutdown_timeout=self._settings.shutdown_timeout_seconds)
        await runner.setup()
        sweeper = asyncio.create_task(self._housekeeping(), name="sweep")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            tls = self._certificate.context if self._certificate else None
            try:
                listener = socket.create_server(
                    (host, port), family=family, backlog=LISTEN_BACKLOG, reuse_port=self._settings.reuse_port
                )
                site = web.SockSite(runner, listener, ssl_context=tls, backlog=LISTEN_BACKLOG)
                await site.start()
            except OSError as error:
                raise BridgeError(
                    f"cannot listen on {self._settings.listen}: {error.strerror}. "
                    "Fix: set BRIDGE_LISTEN to a free address."
                ) from error
            yield format_url(runner.addresses[0], "https" if tls else "http")
            self._stopping = True
            await leave(listener, site, self._server, tls)
        finally:
            sweeper.cancel()
            await runner.cleanup()

    async def _housekeeping(self) -> None:
        """Close connections whose sender takes too long for its headers; look for a renewed certificate."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_INTERVAL_SECONDS)
            self._crowd.tell()
            if self._certificate is not None:
                self._certificate.refresh()
            latest = time.monotonic() - self._settings.request_timeout_seconds
            for connection in self._server.connections:
                assert isinstance(connection, Connection)  # noqa: S101 - we made it
                if connection.reading_since is not None and connection.reading_since < latest:
                    connection.send_request_timeout()
                    self._record_rejection(HTTPStatus.REQUEST_TIMEOUT, "header_timeout", DEFAULT_SOURCE, "")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        began = time.perf_counter()
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - we made it
        connection.reading_since = None
        source = DEFAULT_SOURCE
        try:
            source = self._authorize_and_resolve_source(request)
            body = await self._body(request)
            # What came of the body is no beginning of the next request's headers.
            connection.reading_since = None
            await self._backlog.append(Delivery(time.time_ns() // 1_000_000, source, body, self._traceparent()))
        except Answer as answer:
            return self.refuse(request, answer, source)
        except DeliveryRejected as refusal:
            return self.refuse(
                request, Answer(HTTPStatus.SERVICE_UNAVAILABLE, refusal.reason, detail=str(refusal)), source
            )
        self._metrics.record_acknowledgement(source, len(body), time.perf_counter() - began)
        if request.keep_alive and not self._stopping:
            return ACCEPTED
        return self._response(HTTPStatus.OK, close=True)

    def deliver(self, connection: Connection, message: Any, payload: Any) -> asyncio.Future[None] | None:
        """Take a delivery that arrived whole, unless a gate is shut: then `handle` says which."""
        source = self._sources.get(message.path)
        if (
            source is None
            or message.method != hdrs.METH_POST
            or payload.total_bytes > self._settings.max_body_bytes
            or self._stopping
            or self._traced  # a span needs the request
            or self._token_error(message.headers)
        ):
            return None
        began = time.perf_counter()
        body = payload.read_nowait(-1)
        try:
            future = self._backlog.append(Delivery(time.time_ns() // 1_000_000, source, body))
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets its answer
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        future.add_done_callback(partial(self._answer, connection, source, len(body), began))
        return future

    def _answer(
        self, connection: Connection, source: str, size: int, began: float, future: asyncio.Future[None]
    ) -> None:
        """Answer what `deliver` took."""
        headers = {"Connection": "close"} if self._stopping else {}
        if (refusal := future.exception()) is None:
            self._metrics.record_acknowledgement(source, size, time.perf_counter() - began)
            answer = encoded(HTTPStatus.OK, headers) if headers else ACCEPTED.now()
        else:
            if isinstance(refusal, DeliveryRejected):
                reason, detail = refusal.reason, str(refusal)
            else:
                _log.error("internal_error", exc_info=refusal)
                reason, detail = "internal_error", ""
            remote = connection.peername[0] if connection.peername else None
            self._record_rejection(HTTPStatus.SERVICE_UNAVAILABLE, reason, source, detail, remote)
            headers["Retry-After"] = str(self._settings.retry_after_seconds)
            answer = encoded(HTTPStatus.SERVICE_UNAVAILABLE, headers, f"{reason}\n")
        connection.answer(answer, close=self._stopping)

    def _authorize_and_resolve_source(self, request: web.BaseRequest) -> str:
        """Return the source of a request that may deliver, or raise what it gets instead."""
        source = self._sources.get(request.raw_path)
        if source is None:
            source = self._sources.get(request.path)
        below = request.path.removeprefix(f"{WEBHOOK_PATH}/") if source is None else ""
        if source is None and (below == request.path or "/" in below):
            raise Answer(HTTPStatus.NOT_FOUND, "unknown_path")
        if request.method != hdrs.METH_POST:
            raise Answer(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
        if fault := self._token_error(request.headers):
            raise Answer(HTTPStatus.UNAUTHORIZED, fault)
        if source is None:
            # With a list of sources only those exist; without, any name that is fit for a URL and a metric.
            if (
                self._settings.allowed_sources
                or len(below) > _SOURCE_LENGTH
                or not _SOURCE_CHARACTERS.issuperset(below)
                or not below
            ):
                raise Answer(HTTPStatus.NOT_FOUND, "unknown_source")
            source = below
            if len(self._sources) < MAX_CACHED_SOURCES:
                self._sources[request.raw_path] = source
        return source

    def _token_error(self, headers: CIMultiDictProxy[str]) -> str | None:
        """Return what is wrong with a request's token, None when it may deliver."""
        if self._tokens.authentication_disabled:
            return None
        presented = headers.getall(_TOKEN_HEADER, ())
        if len(presented) == 1 and self._tokens.accepts(presented[0]):
            return None
        return "invalid_token" if presented else "missing_token"

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Return the whole body, decompressed, within its bounds of size and time."""
        limit = self._settings.max_body_bytes
        if (request.content_length or 0) > limit:
            raise Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", close=True)
        content = request.content
        if content.is_eof() and content.exception() is None:
            body = content.read_nowait(-1)
        else:
            body = await self._rest_of_body(content, limit)
        if len(body) > limit:
            raise Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", close=True)
        return body

    async def _rest_of_body(self, content: StreamReader, limit: int) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.request_timeout_seconds):
                while len(body) <= limit:
                    chunk = await content.readany()
                    if not chunk:
                        break
                    body += chunk
        except TimeoutError:
            raise Answer(HTTPStatus.REQUEST_TIMEOUT, "body_timeout", close=True) from None
        except (
            HttpProcessingError,
            web.RequestPayloadError,
            OSError,
            ValueError,
            asyncio.IncompleteReadError,
        ) as error:
            raise Answer(HTTPStatus.BAD_REQUEST, "malformed_body", detail=type(error).__name__, close=True) from error
        return bytes(body)

    def refuse(self, request: web.BaseRequest, answer: Answer, source: str = DEFAULT_SOURCE) -> web.Response:
        """Count, log and answer a refusal."""
        self._record_rejection(answer.status, answer.reason, source, str(answer), remote=request.remote)
        response = self._response(answer.status, close=answer.close or self._stopping, text=answer.reason)
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers[hdrs.ALLOW] = hdrs.METH_POST
        if answer.status is HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers[hdrs.RETRY_AFTER] = str(self._settings.retry_after_seconds)
        return response

    @property
    def in_flight(self) -> int:
        """Requests that are being read or wait for their answer."""
        return sum(each.busy for each in self._server.connections if isinstance(each, Connection))

    def _response(self, status: HTTPStatus, *, close: bool, text: str = "") -> web.Response:
        # The names and versions of what runs here are nobody's business.
        response = web.Response(
            status=status, body=f"{text}\n".encode() if text else b"", headers={hdrs.SERVER: "bridge"}
        )
        if close:
            response.force_close()
        return response

    def _record_rejection(
        self, status: HTTPStatus, reason: str, source: str, detail: str, remote: str | None = None
    ) -> None:
        self._metrics.record_rejection(source, int(status), reason)
        _log.warning("request_rejected", status=int(status), reason=reason, source=source, detail=detail, remote=remote)
