"""A public port in the test's own event loop, with a queue that keeps its deliveries in a list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from bridge.config.settings import load
from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.ingress.server import WebhookServer
from bridge.ingress.tokens import Tokens
from bridge.telemetry.metrics import Metrics

TOKEN = "secret"
BODY = b'{"type": "video.status.created", "asset_id": "a"}'


class ListQueue:
    """The part of the queue that the ingress uses."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.error: DeliveryRejected | None = None
        self.hold = False
        self.delay = 0.0
        self.held: list[asyncio.Future[None]] = []

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all deliveries."""
        return [delivery.body for delivery in self.deliveries]

    def append(self, delivery: Delivery) -> asyncio.Future[None]:
        """Keep a delivery; report it safe at once, after `delay` seconds, or with `hold` when the test does."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        self.deliveries.append(delivery)
        if self.hold:
            self.held.append(future)
        elif self.delay:
            asyncio.get_running_loop().call_later(self.delay, future.set_result, None)
        else:
            future.set_result(None)
        return future


class Sender:
    """A raw connection to the public port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str]]:
        """Read one response: its status and its header fields, in lower case."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            await self.reader.readexactly(int(fields.get("content-length", "0")))
            return int(lines[0].split()[1]), fields

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def deliver(self) -> int:
        """Send a delivery and return the status of its response."""
        await self.send(request())
        return (await self.response())[0]


class Port:
    """A running public port."""

    def __init__(self, url: str, queue: ListQueue, metrics: Metrics, server: WebhookServer) -> None:
        parts = urlsplit(url)
        self.address = str(parts.hostname), int(parts.port or 0)
        self.queue = queue
        self.metrics = metrics
        self.server = server
        self._senders = contextlib.AsyncExitStack()
        self.keeps_senders = False

    async def connect(self) -> Sender:
        """Open a connection, closed at the end of the test."""
        reader, writer = await asyncio.open_connection(*self.address)

        async def close() -> None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        self._senders.push_async_callback(close)
        return Sender(reader, writer)

    async def exchange(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes over a connection of their own, with `end` half-close it; return all until the server closes."""
        sender = await self.connect()
        await sender.send(data)
        if end:
            sender.writer.write_eof()
        return await sender.rest()

    def rejected(self, reason: str, status: int) -> float:
        """Return how many requests were rejected for a reason."""
        labels = {"reason": reason, "status": str(status)}
        return self.metrics.registry.get_sample_value("bridge_http_requests_rejected_total", labels) or 0.0

    async def close_senders(self) -> None:
        """Close the connections of the test."""
        await self._senders.aclose()


def request(  # noqa: PLR0913 - one parameter for each part of a request
    body: bytes = BODY,
    *fields: str,
    path: str = "/webhooks/gumlet",
    token: str | None = TOKEN,
    method: str = "POST",
    version: str = "1.1",
    length: int | None = None,
) -> bytes:
    """Return a request. `length` replaces the body's length; -1 leaves it out."""
    lines = [f"{method} {path} HTTP/{version}", "Host: bridge"]
    lines += [] if token is None else [f"x-gumlet-token: {token}"]
    lines += [] if length == -1 else [f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def public_port(**settings: Any) -> AsyncIterator[Port]:
    """Run a public port while the block runs."""
    loaded = load(**{"listen": "127.0.0.1:0", "tokens": TOKEN, "request_timeout_seconds": 1, **settings})
    queue, metrics = ListQueue(), Metrics()
    server = WebhookServer(loaded, Tokens.from_settings(loaded), queue, metrics)  # type: ignore[arg-type]
    async with server.listening() as url:
        port = Port(url, queue, metrics, server)
        try:
            yield port
        finally:
            if not port.keeps_senders:
                await port.close_senders()
