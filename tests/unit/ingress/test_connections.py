"""Limits of connections, header bytes and time on the public port; its shutdown."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.ingress import connection_limits, protocol
from bridge.ingress.responses import Rejections, RequestRejected
from bridge.telemetry.metrics import Metrics
from tests.support.public_port import BODY, Port, Sender, public_port, request


async def until(condition: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is the server's, which signals nothing
            await asyncio.sleep(0.02)


async def status_of_next(sender: Sender) -> int:
    """Return the status of the next response."""
    return (await sender.response())[0]


@pytest.mark.parametrize("piece", [1000, 100_000])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_headers_over_64_kib_get_431(port: Port, piece: int, end: bytes) -> None:
    """Finished or not, in one piece or in many, headers over 64 KiB are rejected."""
    head = request(token="wrong")[: -len(BODY) - 2] + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 2000) for n in range(40))
    sender = await port.connect()
    try:
        for start in range(0, len(head), piece):
            await sender.send(head[start : start + piece])
        await sender.send(end)
    except ConnectionError:
        pass  # the server has closed meanwhile
    assert (await sender.rest()).startswith(b"HTTP/1.1 431 ")
    assert port.rejected("headers_too_large", 431) == 1


@pytest.mark.parametrize("start", [b"\r\n\r\n", b"\r\n"])
async def test_empty_lines_do_not_lift_the_limit_of_headers(port: Port, start: bytes) -> None:
    """Line ends before a request are no end of its headers."""
    data = start + b"POST / HTTP/1.1\r\n" + b"X: yyyyyyyy\r\n" * 8000
    assert (await port.exchange(data)).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


async def test_headers_of_a_later_request_are_limited_too(port: Port) -> None:
    """After a request that was served, headers over 64 KiB are rejected as on a new connection."""
    sender = await port.connect()
    assert await sender.deliver() == 200
    await sender.send(request(BODY, *(f"X-{number}: {'y' * 2000}" for number in range(40))))
    assert await status_of_next(sender) == 431


async def test_unfinished_headers_of_all_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all connections together hold too many bytes, those that have held theirs longest are evicted."""
    monkeypatch.setattr(connection_limits, "MAX_PENDING_HEADER_BYTES", 20_000)
    async with public_port() as port:
        senders = [await port.connect() for _ in range(10)]
        for sender in senders:
            await sender.send(b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 4000)
        await until(lambda: port.rejected("connection_evicted", 503) == 6)
        assert (await senders[0].rest()).startswith(b"HTTP/1.1 503 ")
        assert await (await port.connect()).deliver() == 200


async def test_unfinished_headers_get_408(port: Port) -> None:
    """A sender that does not finish its headers in time gets 408, even when it sends a byte now and then."""
    sender = await port.connect()
    for byte in b"POST /webhooks":
        await sender.send(bytes([byte]))
        await asyncio.sleep(0.1)
    assert (await sender.rest()).startswith(b"HTTP/1.1 408 ")


async def test_connection_without_a_request_is_closed_without_a_response(port: Port) -> None:
    """A connection over which nothing is sent is closed after the time for the headers."""
    assert await (await port.connect()).rest() == b""


async def test_senders_without_a_token_do_not_keep_a_new_sender_out() -> None:
    """When all places are taken, the connection that has been idle longest without a token gives way."""
    async with public_port(max_connections=5, request_timeout_seconds=30) as port:
        strangers = [await port.connect() for _ in range(5)]
        await until(lambda: port.metrics.registry.get_sample_value("bridge_connections") == 5)
        await strangers[0].send(b"POST /webhooks")
        await asyncio.sleep(0.1)
        honest = await port.connect()
        assert await honest.deliver() == 200
        assert (await strangers[1].rest()).startswith(b"HTTP/1.1 503 ")
        assert port.rejected("connection_evicted", 503) == 1
        for _ in range(10):
            await port.connect()
        assert (await strangers[0].rest()).startswith(b"HTTP/1.1 503 ")
        assert await honest.deliver() == 200, "a sender with a valid token is not evicted"


async def test_connections_that_linger_after_a_rejection_hold_no_more_file_descriptors_than_the_limit() -> None:
    """Senders that keep their side open after a 401 are reset once their places are needed."""
    async with public_port(max_connections=3) as port:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            stranger = await port.connect()
            await stranger.send(request(token="wrong"))
            assert await status_of_next(stranger) == 401
        assert await (await port.connect()).deliver() == 200
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 21 + 3, "21 of the test, 3 of the public port"


async def test_connection_over_the_limit_of_authenticated_ones_gets_503() -> None:
    """When every open connection has sent a valid token, the new one is rejected with Retry-After."""
    async with public_port(max_connections=2) as port:
        inside = [await port.connect() for _ in range(2)]
        assert [await sender.deliver() for sender in inside] == [200, 200]
        response = await port.exchange(request())
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 30\r\n" in response
        assert port.rejected("too_many_connections", 503) == 1
        assert [await sender.deliver() for sender in inside] == [200, 200]


async def test_flood_over_the_limit_leaves_few_open_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected connections are kept for their response up to a bound; further ones are reset; all are counted."""
    monkeypatch.setattr(protocol, "MAX_REJECTED_CONNECTIONS", 5)
    async with public_port(max_connections=1) as port:
        inside = await port.connect()
        assert await inside.deliver() == 200
        for _ in range(30):
            await port.connect()
        await until(lambda: port.rejected("too_many_connections", 503) == 30)
        assert await inside.deliver() == 200


async def test_address_over_its_limit_is_rejected() -> None:
    """The limit per address evicts or rejects connections of that address only."""
    async with public_port(max_connections_per_address=2) as port:
        inside = [await port.connect() for _ in range(2)]
        assert await inside[0].deliver() == 200
        assert await (await port.connect()).deliver() == 200  # in place of the silent one
        assert (await inside[1].rest()).startswith(b"HTTP/1.1 503 ")
        assert (await port.exchange(request())).startswith(b"HTTP/1.1 503 ")
        assert port.rejected("too_many_connections_per_address", 503) == 1


@pytest.mark.long
async def test_sender_that_does_not_read_is_closed() -> None:
    """A sender that pipelines requests and reads no response is closed after the time for a request."""
    async with public_port() as port:
        sender = await port.connect()
        sender.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            while True:
                sender.writer.write(request(b"") * 100)
                try:
                    await asyncio.wait_for(sender.writer.drain(), 0.5)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break


async def test_shutdown_is_bounded_with_slow_senders() -> None:
    """Whatever slow senders do, leaving takes at most the shutdown timeout."""
    async with asyncio.timeout(30), public_port(shutdown_timeout_seconds=3, request_timeout_seconds=60) as port:
        port.queue.hold = True
        silent, headers, body, waiting = [await port.connect() for _ in range(4)]
        await silent.send(b"")
        await headers.send(b"POST /webhooks")
        await body.send(request(b"{", length=10))
        await waiting.send(request())
        await until(lambda: len(port.queue.held) == 1)
        port.keeps_senders = True
    await port.close_senders()


async def test_request_in_progress_is_answered_during_shutdown() -> None:
    """A delivery that waits for the queue when shutdown begins gets its 200 and `Connection: close`."""
    async with public_port() as port:
        port.queue.hold = True
        sender = await port.connect()
        await sender.send(request())
        await until(lambda: port.queue.held)
        asyncio.get_running_loop().call_later(0.3, port.queue.held[0].set_result, None)
        response = asyncio.create_task(sender.response())
        port.keeps_senders = True
    status, fields = await response
    assert (status, fields["connection"]) == (200, "close")
    await port.close_senders()


def test_flood_of_rejections_is_one_line_per_reason_and_second() -> None:
    """The first rejection is logged at once, the following ones as one line with their count."""
    recorder = Rejections(Metrics(), 30)
    with capture_logs() as lines:
        for _ in range(1000):
            recorder.record(RequestRejected(HTTPStatus.UNAUTHORIZED, "invalid_token"), "192.0.2.1")
        recorder.record(RequestRejected(HTTPStatus.NOT_FOUND, "unknown_path"), "192.0.2.1")
        recorder.flush()
        recorder.flush()
        recorder.record(RequestRejected(HTTPStatus.UNAUTHORIZED, "invalid_token"), "192.0.2.1")
    assert [(line["reason"], line["count"]) for line in lines] == [
        ("invalid_token", 1),
        ("unknown_path", 1),
        ("invalid_token", 999),
        ("invalid_token", 1),
    ]
