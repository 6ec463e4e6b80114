"""Network addresses: `HOST:PORT` as the settings write it, and the URL of a listening socket."""

from __future__ import annotations

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
        raise ValueError("is not HOST:PORT")
    return Address(match[1] or match[2], int(match[3]))


def format_url(address: Any, scheme: str = "http") -> str:
    """Return the URL of a socket address, as `socket.getsockname` returns it."""
    host, port = address[0], address[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
