"""Senders that close their side of the connection after their last request."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.public_port import BODY, Port, request


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
