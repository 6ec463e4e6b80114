"""What each request gets: every row of the table, from the real daemon."""

from __future__ import annotations

import gzip
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bridge.contract.schemas import schemas_directory
from tests.support.brokers import Broker
from tests.support.daemon import TOKEN, Daemon, request, wait_for
from tests.support.delivery_checker import header, read_all

BODY = (schemas_directory() / "examples/video.status.ready/full.in.json").read_bytes()


@pytest.fixture(scope="module")
def daemon(embedded_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run one daemon, with short time limits, for all tests of this module."""
    directory = tmp_path_factory.mktemp("daemon")
    settings = {"topics_provision": "create", "request_timeout_seconds": 1, "max_body_bytes": 100_000}
    with Daemon(directory, embedded_broker.bootstrap_servers, "answers.", **settings) as running:
        yield running


def raw(daemon: Daemon, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are over a connection, and return everything that comes back until it closes."""
    address = urlsplit(daemon.public)
    received = b""
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_a_good_delivery_gets_200(daemon: Daemon) -> None:
    """A delivery with the token is acknowledged; the response does not disclose the server software."""
    answer = daemon.post(BODY)
    assert answer.status == 200
    assert answer.headers["server"] == "bridge"


@pytest.mark.parametrize(
    "path", ["/webhooks/gumlet", "/webhooks/gumlet/production", "/webhooks/gumlet?x=1", "/webhooks/gumlet/"]
)
def test_the_paths_that_exist(daemon: Daemon, path: str) -> None:
    """Both forms of the path take deliveries, with or without a query."""
    assert daemon.post(BODY, path).status == 200


@pytest.mark.parametrize("body", [b"", b"not json", b"[1, 2]", b'{"type": "video.status.ready"}', b'{"a": 1}', b"\xff"])
def test_a_body_that_no_retry_could_mend_gets_200(daemon: Daemon, body: bytes) -> None:
    """What is not JSON, not an object or breaks its schema is accepted: it goes to a topic, not back to Gumlet."""
    assert daemon.post(body).status == 200


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "x" * 5000])
def test_a_wrong_token_gets_401(daemon: Daemon, token: str | None) -> None:
    """Without one of the tokens nothing is stored, and the refusal is counted and logged without the token."""
    before = daemon.status()["journal"], daemon.metric('bridge_http_requests_total{source="default",status="200"}')
    assert daemon.post(BODY, token=token).status == 401
    assert daemon.metric('bridge_http_requests_total{source="default",status="200"}') == before[1]
    assert daemon.logged("request_rejected")[-1]["status"] == 401


def test_two_tokens_in_one_request_get_401(daemon: Daemon) -> None:
    """A header sent twice is not a token, whichever of them is right."""
    head = f"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nx-gumlet-token: {TOKEN}\r\nx-gumlet-token: a\r\n"
    answer = raw(daemon, head.encode() + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "path", ["/", "/webhooks", "/webhooks/gumlet//", "/webhooks/gumlet/a/b", "/metrics", "/webhooks/gumlet/a%20b"]
)
def test_an_unknown_path_gets_404(daemon: Daemon, path: str) -> None:
    """Nothing but the webhooks is on the public port."""
    assert daemon.post(BODY, path).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_another_method_gets_405(daemon: Daemon, method: str) -> None:
    """Only POST delivers, and the answer says so."""
    answer = daemon.post(b"", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_large_body_gets_413(daemon: Daemon) -> None:
    """The bound holds for a declared length, for a chunked body without one, and at the byte."""
    assert daemon.post(b"x" * 100_000).status == 200
    answer = daemon.post(b"x" * 100_001)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    head = f"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nx-gumlet-token: {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert raw(daemon, head.encode(), chunk, chunk, b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_small_body_that_unpacks_to_a_large_one_gets_413(daemon: Daemon) -> None:
    """The bound holds after decompression: a bomb of a thousand times its size is not unpacked."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    assert daemon.post(bomb, headers={"Content-Encoding": "gzip"}).status == 413


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_unpacked(daemon: Daemon, encoding: str, pack: object) -> None:
    """Both gzip and deflate are taken off before the delivery is kept."""
    assert daemon.post(pack(BODY), headers={"Content-Encoding": encoding}).status == 200  # type: ignore[operator]


def test_a_body_that_is_not_in_its_encoding_gets_400(daemon: Daemon) -> None:
    """A body that says gzip and is not is malformed HTTP."""
    assert daemon.post(b"this is not gzip", headers={"Content-Encoding": "gzip"}).status == 400


def test_a_slow_body_gets_408(daemon: Daemon) -> None:
    """A sender that stops in the middle of its body gets 408, and the connection closes."""
    head = f"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nx-gumlet-token: {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    answer = raw(daemon, head.encode() + b"{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_slow_headers_get_408(daemon: Daemon) -> None:
    """A sender that never finishes its headers gets 408, on its first request and on a later one."""
    assert raw(daemon, b"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\n").startswith(b"HTTP/1.1 408 ")
    first = f"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nx-gumlet-token: {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
    both = raw(daemon, first.encode(), b"POST /webhooks", pause=0.3)
    assert both.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in both


def test_an_idle_connection_is_not_a_slow_one(daemon: Daemon) -> None:
    """A connection whose last body came in two parts stays open while it is idle, for the next request."""
    head = f"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nx-gumlet-token: {TOKEN}\r\nContent-Length: 2\r\n"
    last = head + "Connection: close\r\n\r\n{}"
    address = urlsplit(daemon.public)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n{")
        time.sleep(0.2)
        connection.sendall(b"}")
        time.sleep(3)  # longer than headers may take, and than the next look at the connections
        connection.sendall(last.encode())
        answers = b""
        while chunk := connection.recv(65536):
            answers += chunk
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert b" 408 " not in answers


@pytest.mark.parametrize(
    "junk",
    [
        b"this is not HTTP\r\n\r\n",
        b"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
def test_malformed_http_gets_400(daemon: Daemon, junk: bytes) -> None:
    """What is not HTTP, or could be read in two ways, is refused and the connection closed."""
    before = daemon.metric('bridge_http_requests_rejected_total{reason="malformed_request",status="400"}')
    assert raw(daemon, junk).startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert daemon.metric('bridge_http_requests_rejected_total{reason="malformed_request",status="400"}') == before + 1


def test_listed_sources_are_the_only_ones(embedded_broker: Broker, tmp_path: Path) -> None:
    """With a list of sources another one is a 404, behind the token."""
    settings = {"topics_provision": "create", "allowed_sources": "production,staging"}
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, **settings) as daemon:
        assert daemon.post(BODY, "/webhooks/gumlet/staging").status == 200
        assert daemon.post(BODY, "/webhooks/gumlet/other").status == 404
        assert daemon.post(BODY, "/webhooks/gumlet/other", token="wrong").status == 401
        assert daemon.post(BODY).status == 200


def test_a_full_journal_gets_503_and_nothing_is_lost(embedded_broker: Broker, tmp_path: Path, prefix: str) -> None:
    """At its bound the bridge says 503 with Retry-After and is not ready; what it acknowledged is published."""
    settings = {"topics_provision": "create", "journal_max_bytes": 1024 * 1024, "retry_after_seconds": 7}
    with Daemon(tmp_path, "127.0.0.1:1", prefix, **settings) as daemon:
        accepted = 0
        while (answer := daemon.post(b"x" * 200_000)).status == 200:
            accepted += 1
        assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        assert 0 < accepted <= 5
        assert daemon.logged("request_rejected")[-1]["reason"] == "journal_full"
        daemon.post(b"x" * (1024 * 1024 - accepted * 200_100 - 200))
        assert daemon.stop() == 0
        daemon.settings["kafka_bootstrap_servers"] = embedded_broker.bootstrap_servers
        daemon.start()
        wait_for(daemon.drained)
        assert daemon.post(BODY).status == 200
        assert daemon.metric(f'bridge_kafka_records_published_total{{topic="{prefix}dead-letter"}}') >= accepted


def test_tokens_are_read_again_when_their_file_changes(embedded_broker: Broker, tmp_path: Path) -> None:
    """A rotation needs no restart: the new token is taken, then the old one is not; an emptied file changes nothing."""
    file = tmp_path / "tokens"
    file.write_text("old\n")
    settings: dict[str, Any] = {"topics_provision": "create", "tokens": None, "tokens_file": file}
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, **settings) as daemon:
        assert daemon.post(BODY, token="old").status == 200
        file.write_text("# rotation\nold\nnew\n")
        wait_for(lambda: daemon.post(BODY, token="new").status == 200)
        assert daemon.post(BODY, token="old").status == 200
        file.write_text("new\n")
        wait_for(lambda: daemon.post(BODY, token="old").status == 401)
        file.write_text("")
        time.sleep(1.5)
        assert daemon.post(BODY, token="new").status == 200


def test_without_a_token_it_does_not_start(tmp_path: Path) -> None:
    """Without tokens the bridge exits with 78 and a fix, unless unauthenticated access is allowed explicitly."""
    daemon = Daemon(tmp_path, "127.0.0.1:1", tokens=None)
    assert daemon.spawn().wait(30) == 78
    assert "BRIDGE_TOKENS" in daemon.log()
    daemon.settings["allow_unauthenticated"] = "true"
    with daemon:
        assert daemon.post(BODY, token=None).status == 200
        assert daemon.logged("authentication_disabled")


def test_a_port_that_is_taken_ends_the_start(daemon: Daemon, tmp_path: Path) -> None:
    """An address in use is one sentence and an exit code, for either port."""
    for name in ("listen", "admin_listen"):
        taken: dict[str, Any] = {name: daemon.settings[name]}
        other = Daemon(tmp_path, "127.0.0.1:1", **taken)
        assert other.spawn().wait(30) == 1
        assert f"BRIDGE_{name.upper()}" in other.log()
        assert "Traceback" not in other.log()


def test_the_admin_port(daemon: Daemon) -> None:
    """Health, metrics and status are on the admin port, in their formats."""
    assert request(daemon.admin, "GET", "/livez").status == 200
    assert request(daemon.admin, "GET", "/readyz").status == 200
    metrics = request(daemon.admin, "GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "bridge_build_info" in metrics.body
    assert daemon.status()["ready"] is True
    assert TOKEN not in metrics.body


async def test_what_was_accepted_is_on_its_topic(daemon: Daemon, embedded_broker: Broker) -> None:
    """The sample arrives on the topic of its type with its id, and a repeat has the same."""
    daemon.post(BODY)
    daemon.post(BODY)
    wait_for(daemon.drained)
    records = await read_all(embedded_broker.bootstrap_servers, ["answers.video.status.ready"])
    ids = [header(record, "ce_id") for record in records if header(record, "ce_source").endswith("/default")]
    assert len(ids) >= 2
    assert len(set(ids)) == 1
    assert records[0].key == b"5fd088e0a47da8246f1fb756"
