"""Every limit of the public port holds, answers clearly, and lets in again when there is room."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.fuzz import GOOD, request
from tests.support.daemon import Daemon, wait_for

DELIVERY = request(GOOD, f"Content-Length: {len(GOOD)}")
NOWHERE = "127.0.0.1:1"


def connect(daemon: Daemon, source: str = "127.0.0.1") -> socket.socket:
    """Open a connection from an address of the loopback network."""
    parts = urlsplit(daemon.public)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20, source_address=(source, 0))


def deliver(connection: socket.socket) -> bytes:
    """Send a delivery over a connection that stays open, and return the answer's head."""
    connection.sendall(DELIVERY)
    answer = b""
    while b"\r\n\r\n" not in answer and (chunk := connection.recv(65536)):
        answer += chunk
    return answer


@contextlib.contextmanager
def held(daemon: Daemon, count: int, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Hold connections, each of which has delivered."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(daemon, source)) for _ in range(count)]
        assert all(deliver(each).startswith(b"HTTP/1.1 200 ") for each in connections)
        yield connections


def everything(connection: socket.socket) -> bytes:
    """Return the bytes received until the other side closes."""
    received = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def refused(daemon: Daemon, reason: str) -> float:
    """Return how many connections were turned away for a reason."""
    return daemon.metric(f'bridge_http_requests_rejected_total{{reason="{reason}",status="503"}}')


def test_one_connection_more_than_may_be_open_gets_503(tmp_path: Path) -> None:
    """The extra connection gets 503 and is closed; open ones continue; once one ends, another is accepted."""
    with Daemon(tmp_path, NOWHERE, max_connections=5) as daemon, held(daemon, 5) as inside:
        one_more = connect(daemon)
        one_more.sendall(DELIVERY)
        answer = everything(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 30\r\n" in answer
        assert b"Connection: close\r\n" in answer
        assert refused(daemon, "too_many_connections") == 1
        assert daemon.metric("bridge_connections") == 5
        assert deliver(inside[0]).startswith(b"HTTP/1.1 200 ")
        inside[1].close()
        wait_for(lambda: daemon.metric("bridge_connections") == 4)
        with connect(daemon) as admitted:
            assert deliver(admitted).startswith(b"HTTP/1.1 200 ")
        assert daemon.status()["journal"]["deliveries"] == 7, "the one that was turned away is not among them"


def test_a_flood_of_connections_is_a_line_a_second_in_the_log(tmp_path: Path) -> None:
    """However many are turned away, those inside are served, and the log's lines count them instead of repeating."""
    flood = 400
    with Daemon(tmp_path, NOWHERE, max_connections=2) as daemon, held(daemon, 2) as inside:
        with contextlib.ExitStack() as stack:
            for _ in range(flood):
                stack.enter_context(connect(daemon))
            assert deliver(inside[0]).startswith(b"HTTP/1.1 200 ")
            wait_for(lambda: refused(daemon, "too_many_connections") == flood)
        wait_for(lambda: sum(line["count"] for line in daemon.logged("request_rejected")) == flood)
        lines = daemon.logged("request_rejected")
        assert len(lines) < flood / 4, "a line for each would fill the disk"
        assert {(line["reason"], line["remote"]) for line in lines} == {("too_many_connections", "127.0.0.1")}
        assert deliver(inside[1]).startswith(b"HTTP/1.1 200 ")


def test_an_address_that_holds_too_many_leaves_the_others_in(tmp_path: Path) -> None:
    """The limit of one address turns away that address alone."""
    with Daemon(tmp_path, NOWHERE, max_connections_per_address=3) as daemon, held(daemon, 3):
        assert everything(connect(daemon)).startswith(b"HTTP/1.1 503 ")
        assert refused(daemon, "too_many_connections_per_address") == 1
        with held(daemon, 3, "127.0.0.2"):
            assert daemon.metric("bridge_connections") == 6
        wait_for(lambda: daemon.metric("bridge_connections") == 3)


def test_more_connections_than_files_are_not_promised(tmp_path: Path) -> None:
    """Where the system allows fewer open files than connections, the daemon says so, and turns away before they end."""
    daemon = Daemon(tmp_path, NOWHERE, max_connections=1000)
    daemon.wrapper = ["prlimit", "--nofile=300:300"]
    with daemon:
        assert daemon.logged("file_descriptor_limit_low")[0]["max_connections"] == 44
        with held(daemon, 44) as inside:
            assert everything(connect(daemon)).startswith(b"HTTP/1.1 503 ")
            assert deliver(inside[0]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("setting", "headers"),
    [("max_headers", [f"X-{number}: y" for number in range(20)]), ("max_header_bytes", ["X: " + "y" * 1100])],
)
def test_headers_over_their_limit_get_400(tmp_path: Path, setting: str, headers: list[str]) -> None:
    """Number and length of the header fields are bounded as configured."""
    limit: dict[str, Any] = {setting: {"max_headers": 16, "max_header_bytes": 1024}[setting]}
    with Daemon(tmp_path, NOWHERE, **limit) as daemon:
        many = request(GOOD, *headers, f"Content-Length: {len(GOOD)}")
        connection = connect(daemon)
        connection.sendall(many)
        assert b" 400 " in everything(connection).split(b"\r\n")[0]
        with connect(daemon) as usual:
            assert deliver(usual).startswith(b"HTTP/1.1 200 ")
