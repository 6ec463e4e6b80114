"""Limits of the open connections: in total, per client address, and in memory before authentication.

A connection is counted when it is accepted, before a TLS handshake, and released when it is closed. Connections that
have not sent a valid token yet are kept in the order of their last activity. When the total limit is reached, the
longest idle of these is evicted in favour of the new connection: senders without a token cannot occupy the port.
When no connection can be evicted, the new one is rejected.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from bridge.ingress.responses import RequestRejected

if TYPE_CHECKING:
    from bridge.ingress.protocol import Connection

RESERVED_FILE_DESCRIPTORS = 256
"""File descriptors left for the journal, the brokers, the admin port and rejected connections."""
MAX_REJECTED_CONNECTIONS = 128
"""Rejected connections that may be open at a time to receive their response; further ones are reset at once."""
MAX_PENDING_HEADER_BYTES = 16 * 1024 * 1024
"""Bytes of unfinished headers held by all connections together."""

_log = structlog.stdlib.get_logger()


class ConnectionLimiter:
    """Admits, orders and evicts connections."""

    def __init__(self, max_connections: int, max_per_address: int) -> None:
        self._max_connections = _raise_descriptor_limit(max_connections)
        self._max_per_address = max_per_address
        self._per_address: Counter[str] = Counter()
        self._open: set[Connection] = set()
        self._admitted: set[Connection] = set()
        self._unauthenticated: dict[Connection, int] = {}
        self._pending_header_bytes = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def open(self) -> list[Connection]:
        """All open connections, the rejected ones included."""
        return list(self._open)

    @property
    def rejected(self) -> int:
        """Number of open connections without a place: rejected or evicted."""
        return len(self._open) - len(self._admitted)

    @property
    def size(self) -> int:
        """Number of admitted connections."""
        return len(self._admitted)

    def try_acquire(self, connection: Connection) -> RequestRejected | None:
        """Admit a new connection, if necessary in place of an evicted one; return the rejection otherwise."""
        self._open.add(connection)
        self._all_closed.clear()
        if self._max_per_address and self._per_address[connection.address] >= self._max_per_address:
            same = next((known for known in self._unauthenticated if known.address == connection.address), None)
            if same is None:
                return RequestRejected(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections_per_address")
            self._evict(same)
        elif len(self._admitted) >= self._max_connections:
            if not self._unauthenticated:
                return RequestRejected(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections")
            self._evict(next(iter(self._unauthenticated)))
        self._admitted.add(connection)
        self._unauthenticated[connection] = 0
        self._per_address[connection.address] += 1
        return None

    def record_activity(self, connection: Connection, header_bytes: int) -> None:
        """Note that a connection is not idle, and how many bytes of unfinished headers it holds now."""
        held = self._unauthenticated.pop(connection, None)
        if held is None:
            return
        self._unauthenticated[connection] = header_bytes
        self._pending_header_bytes += header_bytes - held
        while self._pending_header_bytes > MAX_PENDING_HEADER_BYTES:
            self._evict(next(known for known, held in self._unauthenticated.items() if held))

    def authenticate(self, connection: Connection) -> None:
        """Note that a connection has sent a valid token: it is not evicted from now on."""
        self._pending_header_bytes -= self._unauthenticated.pop(connection, 0)

    def release(self, connection: Connection) -> None:
        """Forget a closed connection, and free its place if it has one."""
        self._open.discard(connection)
        self._free(connection)
        if not self._open:
            self._all_closed.set()

    async def wait_all_closed(self) -> None:
        """Wait until no connection is open."""
        await self._all_closed.wait()

    def _evict(self, connection: Connection) -> None:
        self._free(connection)
        connection.evict()

    def _free(self, connection: Connection) -> None:
        if connection in self._admitted:
            self.authenticate(connection)
            self._admitted.discard(connection)
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]


def _raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of open files for so many connections; return how many are possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            possible = max(1, soft - RESERVED_FILE_DESCRIPTORS)
            _log.warning(
                "file_descriptor_limit_low",
                limit=soft,
                max_connections=possible,
                fix=f"allow {needed} (ulimit -n, LimitNOFILE)",
            )
            return possible
    return wanted
