"""How many connections the public port holds, in all and of one address: counted as they come and go.

One over a limit is answered 503 with Retry-After, and closed. What its sender had sent is read and thrown away for a
moment, for a socket closed on unread bytes resets the connection, and the answer with it.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from typing import cast

import structlog

from bridge.config.settings import Settings
from bridge.telemetry.metrics import Metrics

RESERVED_FILE_DESCRIPTORS = 256
"""Open files left to the journal, to Kafka's brokers and to the admin port."""
LINGER_SECONDS = 1.0
"""How long the sender of a connection over the limit may take to read its answer."""
MAX_LINGERING = 128
"""How many may do so at a time; further ones are closed without an answer, or a flood would hold what is saved."""

_log = structlog.stdlib.get_logger()


class ConnectionLimiter:
    """The connections that are open now."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._effective_limit = _effective_limit(settings.max_connections)
        self._max_per_address = settings.max_connections_per_address
        self._metrics = metrics
        self._answer = (
            "HTTP/1.1 503 Service Unavailable\r\nServer: bridge\r\nConnection: close\r\nContent-Length: 0\r\n"
            f"Retry-After: {settings.retry_after_seconds}\r\n\r\n"
        ).encode()
        self._of_address: Counter[str] = Counter()
        self._lingering = 0
        self._pending_rejections: Counter[tuple[str, str]] = Counter()
        self.size = 0

    def enter(self, transport: asyncio.BaseTransport) -> str | None:
        """Count a new connection in and return its address; None when there is no room and it has been turned away."""
        address = _address(transport)
        if self.size >= self._effective_limit:
            self._reject(transport, "too_many_connections", address)
        elif self._max_per_address and self._of_address[address] >= self._max_per_address:
            self._reject(transport, "too_many_connections_per_address", address)
        else:
            self.size += 1
            self._of_address[address] += 1
            return address
        return None

    def leave(self, address: str) -> None:
        """Count out a connection that had entered, of the address that it had then: TLS forgets it before the end."""
        self.size -= 1
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    def tell(self) -> None:
        """Log what was turned away since the last time: a line for each reason and address, the first few of them."""
        for (reason, address), times in self._pending_rejections.most_common(3):
            _log.warning("connections_rejected", reason=reason, remote=address, times=times, open=self.size)
        self._pending_rejections.clear()

    def _reject(self, transport: asyncio.BaseTransport, reason: str, address: str) -> None:
        self._metrics.record_rejection("default", 503, reason)
        self._pending_rejections[reason, address] += 1
        stream = cast("asyncio.Transport", transport)
        if self._lingering >= MAX_LINGERING:
            stream.abort()
            return
        self._lingering += 1
        stream.set_protocol(_LingeringProtocol(self))
        stream.write(self._answer)
        if stream.can_write_eof():
            stream.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, stream.abort)

    def gone(self) -> None:
        """Note the end of a connection that was turned away."""
        self._lingering -= 1


class _LingeringProtocol(asyncio.Protocol):
    """What a connection over a limit sends, thrown away until its sender closes."""

    def __init__(self, crowd: ConnectionLimiter) -> None:
        self._crowd = crowd

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._crowd.gone()


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def _effective_limit(wanted: int) -> int:
    """Return how many connections this process may hold: each is an open file, of which it raises its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            fit = max(1, soft - RESERVED_FILE_DESCRIPTORS)
            _log.warning(
                "file_descriptor_limit_low",
                limit=soft,
                max_connections=fit,
                fix=f"allow {needed} (ulimit -n, LimitNOFILE)",
            )
            return fit
    return wanted
