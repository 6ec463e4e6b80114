"""Leaving a public port without resetting anybody: what had connected is served, then asked to go.

Closing a listening socket resets the connections that the kernel holds for it. Where several processes share the
port, those were never the others': so what is queued is accepted first. A sender on an open connection then gets its
answer with `Connection: close`; an idle connection is given a moment, because a request may be on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time

from aiohttp import web

IDLE_GRACE_SECONDS = 3.0
"""How long connections that stay open without a request are waited for."""


async def leave(
    listener: socket.socket, site: web.BaseSite, server: web.Server, tls: ssl.SSLContext | None = None
) -> None:
    """Stop accepting, serve what had connected, and wait for the connections to go."""
    queue = socket.socket(fileno=os.dup(listener.fileno()))  # keeps the port open when the site closes its own
    await site.stop()
    for connection in _accept_pending(queue):
        with contextlib.suppress(OSError):  # it went meanwhile
            await asyncio.get_running_loop().connect_accepted_socket(server, connection, ssl=tls)
    deadline = time.monotonic() + IDLE_GRACE_SECONDS
    while server.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - aiohttp does not signal their end
        await asyncio.sleep(0.02)


def _accept_pending(listener: socket.socket) -> list[socket.socket]:
    """Accept what the kernel holds, and close in the same moment."""
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    accepted: list[socket.socket] = []
    with listener, contextlib.suppress(BlockingIOError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted
