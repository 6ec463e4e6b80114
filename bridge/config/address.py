"""Network addresses: `HOST:PORT` as the settings write it, and the URL of a listening socket."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple

MAX_PORT = 65535

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", re.ASCII)


class Address(NamedTuple):
    """Where to listen. Port 0 stands for any free port."""

    host: str
    port: int


def parse_address(value: str) -> Address:
    """Parse `HOST:PORT`, an IPv6 host in brackets. Raises ValueError."""
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match[3]) > MAX_PORT:
        hint = "; an IPv6 address is written in brackets, as in [::1]:8080" if value.count(":") > 1 else ""
        raise ValueError(f"is not HOST:PORT{hint}")
    if match[1]:
        parse_ipv6(match[1])
    return Address(match[1] or match[2], int(match[3]))


def parse_ipv6(host: str) -> str:
    """Return a valid IPv6 address as it is. Raises ValueError."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError("contains an invalid IPv6 address; it is written as in [::1]:8080") from None
    return host


def format_url(address: Any, scheme: str = "http") -> str:
    """Return the URL of a socket address, as `socket.getsockname` returns it."""
    host, port = address[0], address[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
