"""Graceful shutdown of the public port: no connection is reset, and the duration is bounded.

Closing a listening socket resets the connections in its queue. Where several processes share the port, the kernel
does not pass them on to the others; so the queue is accepted first. A request in progress gets its response with
`Connection: close`; an idle connection is kept for a moment, because a request may be on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable

from bridge.ingress.connection_limits import ConnectionLimiter

IDLE_GRACE_SECONDS = 3.0
"""How long an idle connection is kept open for a request that may be on its way."""


async def drain_connections(
    listener: socket.socket,
    accepting: asyncio.Task[None],
    accept: Callable[[socket.socket], Awaitable[None]],
    limiter: ConnectionLimiter,
    timeout_seconds: float,
) -> None:
    """Stop accepting, let the requests in progress finish, and close all connections within the timeout."""
    deadline = time.monotonic() + timeout_seconds
    duplicate = socket.socket(fileno=os.dup(listener.fileno()))  # keeps the port open while `listener` is closed
    accepting.cancel()
    await asyncio.wait([accepting])
    for accepted in _accept_pending(duplicate):
        await accept(accepted)
    await _wait_all_closed(limiter, min(IDLE_GRACE_SECONDS, timeout_seconds))
    for connection in limiter.open:
        connection.close_if_idle()
    await _wait_all_closed(limiter, max(0.0, deadline - time.monotonic()))
    for connection in limiter.open:
        connection.abort()
    await _wait_all_closed(limiter, 1.0)


async def _wait_all_closed(limiter: ConnectionLimiter, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(limiter.wait_all_closed(), seconds)


def _accept_pending(listener: socket.socket) -> list[socket.socket]:
    """Accept the connections in the kernel's queue, and close the socket at once."""
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    accepted: list[socket.socket] = []
    with listener, contextlib.suppress(BlockingIOError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted
