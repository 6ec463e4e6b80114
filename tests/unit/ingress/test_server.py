"""What the public port responds to requests that are complete, from a raw connection."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib

import pytest
from structlog.testing import capture_logs

from bridge.errors import DeliveryRejected
from tests.support.public_port import BODY, Port, public_port, request

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def compress(body: bytes) -> bytes:
    """Compress without a timestamp: the names of parametrized tests must be the same in each process."""
    return gzip.compress(body, mtime=0)


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


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", compress(BODY)),
        ("GZIP", compress(BODY)),
        ("gzip", compress(BODY[:9]) + compress(BODY[9:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
        ("", BODY),
    ],
)
async def test_encoded_body_is_decoded(port: Port, encoding: str, body: bytes) -> None:
    """The queue receives what the encoding holds."""
    sender = await port.connect()
    await sender.send(request(body, f"Content-Encoding: {encoding}"))
    assert (await sender.response())[0] == 200
    assert port.queue.bodies == [BODY]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", compress(BODY)[:-1]),
        ("gzip", compress(BODY)[:-8]),
        ("gzip", compress(BODY)[:20]),
        ("gzip", compress(BODY) + compress(BODY)[:20]),
        ("gzip", compress(BODY) + b"rest"),
        ("gzip", compress(b"") * 101 + compress(BODY)),
        ("gzip", b""),
        ("gzip", b"not gzip"),
        ("gzip", compress(BODY)[:-8] + b"\0" * 8),
        ("deflate", zlib.compress(BODY)[:-1]),
        ("deflate", zlib.compress(BODY)[:10]),
        ("deflate", zlib.compress(BODY) + b"rest"),
        ("deflate", zlib.compress(BODY, wbits=-15)[:-1]),
        ("deflate", b""),
    ],
)
async def test_body_that_is_not_a_whole_encoding_gets_400(port: Port, encoding: str, body: bytes) -> None:
    """A truncated or extended body is never acknowledged: its content is lost."""
    response = await port.exchange(request(body, f"Content-Encoding: {encoding}"))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert not port.queue.deliveries


@pytest.mark.parametrize(
    "field",
    [
        "Content-Encoding: x-gzip",
        "Content-Encoding: gzip, gzip",
        "Content-Encoding: gzip\r\nContent-Encoding: gzip",
        "Content-Encoding: br",
        "Content-Encoding: zstd",
        "Content-Encoding: compress",
        "Content-Encoding: identity, gzip",
        "Content-Encoding: gidentityzip",
    ],
)
async def test_encoding_that_is_not_decoded_gets_415(port: Port, field: str) -> None:
    """The bridge would otherwise acknowledge bytes that cannot be read."""
    body = compress(BODY)
    assert (await port.exchange(request(body, field))).startswith((b"HTTP/1.1 415 ", b"HTTP/1.1 400 "))
    assert not port.queue.deliveries


@pytest.mark.parametrize("value", ["gzip, chunked", "deflate, chunked", "gzip,chunked"])
async def test_transfer_encoding_that_is_not_decoded_gets_415(port: Port, value: str) -> None:
    """Only `chunked` is decoded."""
    response = await port.exchange(request(CHUNKED, f"Transfer-Encoding: {value}", length=-1))
    assert response.startswith((b"HTTP/1.1 415 ", b"HTTP/1.1 400 "))
    assert not port.queue.deliveries


async def test_chunked_body_is_acknowledged(port: Port) -> None:
    """A chunked body is put together, whatever the case of its coding's name."""
    sender = await port.connect()
    for coding in ("chunked", "Chunked"):
        await sender.send(request(CHUNKED, f"Transfer-Encoding: {coding}", length=-1))
        assert (await sender.response())[0] == 200
    assert port.queue.bodies == [BODY, BODY]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_body_over_the_limit_after_decompression_gets_413(port: Port, pack: object) -> None:
    """A small body that decompresses to a large one is not decompressed."""
    bomb = pack(b"\0" * 50_000_000)  # type: ignore[operator]
    encoding = "gzip" if pack is gzip.compress else "deflate"
    assert (await port.exchange(request(bomb, f"Content-Encoding: {encoding}"))).startswith(b"HTTP/1.1 413 ")


async def test_continue_is_sent_once_token_and_size_are_accepted(port: Port) -> None:
    """The sender gets 100, sends its body, and gets 200."""
    sender = await port.connect()
    for _ in range(2):
        await sender.send(request(b"", "Expect: 100-continue", length=len(BODY)))
        assert (await sender.response())[0] == 100
        await sender.send(BODY)
        assert (await sender.response())[0] == 200
    assert port.queue.bodies == [BODY, BODY]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"", "Expect: 100-continue", token="wrong", length=10), 401),
        (request(b"", "Expect: 100-continue", path="/", length=10), 404),
        (request(b"", "Expect: 100-continue", length=600_000), 413),
        (request(b"", "Expect: 100-continue", "Content-Encoding: br", length=10), 415),
    ],
)
async def test_no_continue_is_sent_to_a_rejected_request(port: Port, data: bytes, status: int) -> None:
    """The final status comes in place of 100, and the body is not asked for."""
    response = await port.exchange(data)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert response.count(b"HTTP/1.1 ") == 1


async def test_half_closed_sender_gets_its_response(port: Port) -> None:
    """A sender that shuts down its side after the request is acknowledged, and then the connection closes."""
    sender = await port.connect()
    await sender.send(request() + request())
    sender.writer.write_eof()
    assert (await sender.rest()).count(b"HTTP/1.1 200 ") == 2
    assert port.queue.bodies == [BODY, BODY]


@pytest.mark.parametrize("count", [20, 40, 200])
@pytest.mark.parametrize("delay", [0.0, 0.02])
async def test_half_closed_sender_of_pipelined_requests_gets_every_response(
    port: Port, count: int, delay: float
) -> None:
    """More requests than aiohttp parses ahead, acknowledged at once or slowly: each has its response."""
    port.queue.delay = delay
    sender = await port.connect()
    await sender.send(request() * count)
    sender.writer.write_eof()
    assert (await sender.rest()).count(b"HTTP/1.1 200 ") == count
    assert len(port.queue.deliveries) == count


async def test_half_closed_sender_of_pipelined_requests_and_a_part_of_one_gets_every_response(port: Port) -> None:
    """The requests before the unfinished one are acknowledged, then the connection closes."""
    port.queue.delay = 0.05
    response = await port.exchange(request() * 3 + request()[:40], end=True)
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 3


async def test_half_closed_sender_of_single_bytes_gets_its_response(port: Port) -> None:
    """The end of the headers is found however the sender's bytes are divided."""
    sender = await port.connect()
    whole = request()
    for offset in range(len(whole)):
        await sender.send(whole[offset : offset + 1])
        await asyncio.sleep(0)
    sender.writer.write_eof()
    assert (await sender.rest()).startswith(b"HTTP/1.1 200 ")
    assert port.queue.bodies == [BODY]


@pytest.mark.parametrize("body", [b"", b"{", b"x" * 400_000])
async def test_half_closed_sender_with_an_unfinished_body_gets_400(port: Port, body: bytes) -> None:
    """What ends before its length is not acknowledged."""
    sender = await port.connect()
    await sender.send(request(body, length=len(body) + 1))
    sender.writer.write_eof()
    assert (await sender.rest()).startswith(b"HTTP/1.1 400 ")
    assert not port.queue.deliveries
    assert port.rejected("truncated_body", 400) == 1


async def test_half_closed_sender_with_a_large_body_is_acknowledged(port: Port) -> None:
    """A body that is larger than the buffers is read to its end before the sender's end is acted on."""
    sender = await port.connect()
    await sender.send(request(b"x" * 500_000))
    sender.writer.write_eof()
    assert (await sender.rest()).startswith(b"HTTP/1.1 200 ")
    assert port.queue.bodies == [b"x" * 500_000]


async def test_half_closed_sender_with_unfinished_headers_gets_400(port: Port) -> None:
    """Headers that will never be complete are malformed."""
    sender = await port.connect()
    await sender.send(request()[:40])
    sender.writer.write_eof()
    assert (await sender.rest()).startswith(b"HTTP/1.1 400 ")
    assert port.rejected("malformed_request", 400) == 1


async def test_http_10_with_a_transfer_encoding_gets_400(port: Port) -> None:
    """HTTP/1.0 has no chunks (RFC 9112, section 6.1): a proxy may have forwarded the body in another framing."""
    data = request(CHUNKED, "Transfer-Encoding: chunked", "Connection: keep-alive", length=-1, version="1.0")
    response = await port.exchange(data)
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"400"]
    assert not port.queue.deliveries


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"", b"zz\r\n"),
        (b"5\r\nhello\r\n", b"zz\r\n"),
        (b"5\r\nhel", b"loXX\r\n"),
        (b"5\r\nhello\r", b"XX"),
        (b"5\r\nhello\r\n", b"-1\r\n"),
        (b"5;name=value\r\nhello\r\n5", b"\r\nhello0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_malformed_chunk_gets_400_without_waiting_for_more(start: bytes, rest: bytes, *, split: bool) -> None:
    """The response does not wait for the time of a body, however the bytes are divided."""
    async with public_port(request_timeout_seconds=60) as port:
        sender = await port.connect()
        await sender.send(request(start, "Transfer-Encoding: chunked", length=-1))
        await asyncio.sleep(0.05)
        for piece in [bytes([byte]) for byte in rest] if split else [rest]:
            await sender.send(piece)
            await asyncio.sleep(0.01)
        assert (await sender.rest()).startswith(b"HTTP/1.1 400 ")
        assert not port.queue.deliveries


async def test_chunked_request_that_arrives_during_another_one_is_not_taken_for_its_body(port: Port) -> None:
    """A request whose headers arrived while another one had no response yet: where its body starts is not known."""
    sender = await port.connect()
    port.queue.hold = True
    await sender.send(request(b"not a chunk"))
    while not port.queue.held:  # noqa: ASYNC110 - the port signals nothing
        await asyncio.sleep(0.01)
    await sender.send(request(b"5\r\nhel", "Transfer-Encoding: chunked", length=-1))
    await asyncio.sleep(0.05)
    port.queue.hold = False
    port.queue.held[0].set_result(None)
    assert (await sender.response())[0] == 200
    await asyncio.sleep(0.05)
    await sender.send(b"lo\r\n0\r\n\r\n")
    assert (await sender.response())[0] == 200
    assert port.queue.bodies == [b"not a chunk", b"hello"]


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
async def test_chunked_body_in_pieces_is_acknowledged(port: Port, piece: int) -> None:
    """Extensions, leading zeros, trailers and capital digits are valid, however the bytes are divided."""
    sender = await port.connect()
    body = b"000A;name=value\r\n0123456789\r\n1\r\n\r\r\n0\r\nX-Trailer: 1\r\n\r\n"
    for _ in range(2):
        data = request(body, "Transfer-Encoding: chunked", length=-1)
        for start in range(0, len(data), piece):
            await sender.send(data[start : start + piece])
            await asyncio.sleep(0.001)
        assert (await sender.response())[0] == 200
    assert port.queue.bodies == [b"0123456789\r"] * 2


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
