"""What the public port responds to requests that are complete, from a raw connection."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from bridge.errors import DeliveryRejected
from tests.support.public_port import BODY, Port, public_port, request


async def test_delivery_is_acknowledged_and_the_connection_stays_open(port: Port) -> None:
    """Two deliveries over one connection get 200, without the name of the server software."""
    sender = await port.connect()
    for _ in range(2):
        await sender.send(request())
        status, fields = await sender.response()
        assert status == 200
        assert fields["server"] == "bridge"
        assert "connection" not in fields
    assert port.queue.bodies == [BODY, BODY]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(token="wrong"), 401),
        (request(token=None), 401),
        (request(path="/elsewhere"), 404),
        (request(path="/webhooks/gumlet/.."), 404),
        (request(path="/webhooks/gumlet/%2e%2e"), 404),
        (request(method="PUT"), 405),
        (request(token="wrong", length=100_000), 401),
        (request(b"x" * 10, "Content-Encoding: br"), 415),
        (request(length=600_000), 413),
        (b"nonsense\r\n\r\n", 400),
        (request(b"", "Content-Length: 3", length=2), 400),
        (b"POST /webhooks/gumlet HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
    ],
)
async def test_rejected_request_gets_its_status_and_the_connection_closes(port: Port, data: bytes, status: int) -> None:
    """After a rejection the connection closes: a sender without a token cannot keep it."""
    response = await port.exchange(data)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in response
    assert b"\r\nServer: bridge\r\n" in response
    assert response.count(b"HTTP/1.1 ") == 1
    assert not port.queue.deliveries
    name = {"source": "default", "status": str(status)}
    assert port.metrics.registry.get_sample_value("bridge_http_requests_total", name) == 1


async def test_no_timeout_is_sent_after_a_rejection_with_a_late_body(port: Port) -> None:
    """A body that follows a 401 is discarded: it is neither the next request nor a slow one."""
    sender = await port.connect()
    await sender.send(request(b"", token="wrong", length=10))
    assert (await sender.response())[0] == 401
    await sender.send(b"0123456789")
    assert await sender.rest() == b""


@pytest.mark.parametrize("source", [".", "..", "-x", "_x", "a b", "a%0A", "x" * 65])
@pytest.mark.parametrize("tokens", ["secret", ""])
async def test_source_outside_the_pattern_gets_404(source: str, tokens: str) -> None:
    """The pattern of a source's name holds with and without authentication."""
    async with public_port(tokens=tokens, allow_unauthenticated=not tokens) as port:
        response = await port.exchange(request(path="/webhooks/gumlet/" + source.replace(" ", "%20")))
        assert response.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/webhooks/gumlet/", "default"),
        ("/webhooks/gumlet/films/", "films"),
        ("/webhooks/gumlet/films", "films"),
        ("/webhooks/gumlet/%66ilms?x=1", "films"),
        ("http://example.com/webhooks/gumlet/films", "films"),
    ],
)
async def test_path_names_the_source(port: Port, path: str, source: str) -> None:
    """A trailing slash, an escape, a query and the absolute form of a URL make no difference."""
    sender = await port.connect()
    for _ in range(2):
        await sender.send(request(path=path))
        assert (await sender.response())[0] == 200
    assert [delivery.source for delivery in port.queue.deliveries] == [source, source]


async def test_http_10_connection_closes_by_default(port: Port) -> None:
    """Without `Connection: keep-alive` an HTTP/1.0 connection closes after the response."""
    response = await port.exchange(request(version="1.0"))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in response


async def test_http_10_keep_alive_is_confirmed(port: Port) -> None:
    """With it, the response says so and the connection takes another request."""
    sender = await port.connect()
    for _ in range(2):
        await sender.send(request(BODY, "Connection: keep-alive", version="1.0"))
        status, fields = await sender.response()
        assert (status, fields["connection"]) == (200, "keep-alive")


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0"])
async def test_offered_upgrade_is_ignored(port: Port, protocol: str) -> None:
    """A sender that offers another protocol with its delivery is served in HTTP/1.1, and its body is whole."""
    sender = await port.connect()
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk")
    for _ in range(2):
        await sender.send(request(BODY, *fields))
        assert (await sender.response())[0] == 200
    assert port.queue.bodies == [BODY, BODY]


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "tcp"])
async def test_upgrade_that_ends_http_is_not_acknowledged(port: Port, protocol: str) -> None:
    """Such a request can lose its body in aiohttp, and before 3.14.5 also its response."""
    response = await port.exchange(request(BODY, "Connection: Upgrade", f"Upgrade: {protocol}"))
    assert response == b"" or response.startswith(b"HTTP/1.1 400 ")
    assert port.rejected("malformed_request", 400) == 1
    assert not port.queue.deliveries


async def test_full_queue_gets_503_with_retry_after_and_the_connection_stays_open(port: Port) -> None:
    """An authenticated sender may retry over the same connection."""
    sender = await port.connect()
    port.queue.error = DeliveryRejected("queue_full", "full")
    await sender.send(request())
    status, fields = await sender.response()
    assert (status, fields["retry-after"], fields["connection"]) == (503, "30", "keep-alive")
    port.queue.error = None
    assert await sender.deliver() == 200
    assert port.rejected("queue_full", 503) == 1


async def test_unexpected_error_gets_503(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the bridge is a 503, which the sender retries; the next request is served."""

    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(port.queue, "append", fail)
        assert (await port.exchange(request())).startswith(b"HTTP/1.1 503 ")
    assert port.rejected("internal_error", 503) == 1
    assert await (await port.connect()).deliver() == 200


async def test_response_to_head_has_no_body(port: Port) -> None:
    """A HEAD request gets 405 with the length of the body that it does not get."""
    response = await port.exchange(request(b"", method="HEAD"))
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: POST" in head
    assert body == b""


async def test_no_log_quotes_a_malformed_token(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the bridge nor aiohttp logs the header that could not be parsed."""
    with capture_logs() as lines, caplog.at_level("DEBUG"):
        assert (await port.exchange(request(token="almost-a-secret\x01"))).startswith(b"HTTP/1.1 400 ")
    assert lines[-1]["remote"] == "127.0.0.1"
    assert "almost" not in f"{lines}{caplog.text}"
