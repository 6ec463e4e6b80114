"""Checks the Host header of requests to the admin port, so that no web page can read it by DNS rebinding.

A browser sends the name that the page was loaded from. Accepted: `localhost`, every IP address (Kubernetes probes use
the pod's), the host of `admin_listen`, and the names in `admin_allowed_hosts` (`*.example.com`: every name below it).
Everything else gets 421. A request without a Host header (HTTP/1.0) cannot come from a browser and is accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

_HOST = re.compile(r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::\d*)?")

MISDIRECTED_REQUEST = 421
REJECTED = (
    "The admin port does not serve this host name. "
    "Fix: use an IP address, or add the name to BRIDGE_ADMIN_ALLOWED_HOSTS.\n"
)


def is_allowed(header: str, names: frozenset[str]) -> bool:
    """Return whether the value of a Host header is one of `names`, localhost or an IP address."""
    match = _HOST.fullmatch(header.strip())
    if match is None:
        return False
    host = (match["bracketed"] or match["name"] or "").lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or any(_matches(host, name) for name in names):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _matches(host: str, name: str) -> bool:
    return host.endswith(name[1:]) and host != name[1:] if name.startswith("*.") else host == name


def host_check(names: frozenset[str]) -> Middleware:
    """Return a middleware that rejects requests whose Host is not allowed."""

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        hosts = request.headers.getall("Host", ())
        if len(hosts) > 1 or (hosts and not is_allowed(hosts[0], names)):
            return web.Response(status=MISDIRECTED_REQUEST, text=REJECTED)
        return await handler(request)

    return check
