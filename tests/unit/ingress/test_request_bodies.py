"""Encodings, chunks and 100 Continue."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib

import pytest

from tests.support.public_port import BODY, Port, public_port, request
from tests.unit.ingress.requests import CHUNKED, compress


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
