"""Reads a request's body, bounded in size and time, and decodes its content encoding.

`check_body_headers` decides from the headers alone, before a byte of the body is awaited: 415, 413.
`read_body` returns the body as sent, or raises RequestRejected: 408 too slow, 400 malformed or incomplete.
`decompress` decodes it, or raises RequestRejected: 413 too large, 400 malformed or incomplete. A compressed body is
complete only when its encoding ends where the body ends: a truncated one must not be acknowledged.
"""

from __future__ import annotations

import asyncio
import zlib
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

from bridge.ingress.framing import ChunkFraming
from bridge.ingress.protocol import Connection
from bridge.ingress.responses import RequestRejected

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_GZIP, _ZLIB, _RAW_DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_DEFLATE_METHOD = 8
MAX_GZIP_MEMBERS = 100
"""Each member costs a copy of what follows it: thousands of empty ones would hold the event loop."""
_SWITCHED_PROTOCOLS = frozenset({"websocket", "tcp"})
"""aiohttp stops parsing after the headers of these upgrades, and releases before 3.14.5 then lose the body."""


def check_body_headers(request: web.BaseRequest, max_bytes: int) -> str:
    """Return the content encoding: `gzip`, `deflate` or empty. Raises RequestRejected for what is not supported."""
    headers = request.headers
    if hdrs.TRANSFER_ENCODING in headers:
        if request.version < (1, 1):  # RFC 9112, section 6.1: its framing is faulty
            raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_request", "Transfer-Encoding in HTTP/1.0")
        if _list_value(headers, hdrs.TRANSFER_ENCODING) != "chunked":
            raise RequestRejected(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", "Transfer-Encoding")
    if hdrs.UPGRADE in headers and headers[hdrs.UPGRADE].lower() in _SWITCHED_PROTOCOLS:
        raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_request", "Upgrade")
    encoding = ""
    if hdrs.CONTENT_ENCODING in headers:
        encoding = _list_value(headers, hdrs.CONTENT_ENCODING)
        encoding = "" if encoding == "identity" else encoding
        if encoding not in {"", "gzip", "deflate"}:
            raise RequestRejected(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", "Content-Encoding")
    if (request.content_length or 0) > max_bytes:
        raise RequestRejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large")
    return encoding


async def read_body(request: web.BaseRequest, connection: Connection, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the body as sent, or little more than `max_bytes` of it; send 100 Continue first where it is expected."""
    content = request.content
    body = bytearray()
    chunks = ChunkFraming()
    if hdrs.TRANSFER_ENCODING in request.headers:
        connection.observe_body(chunks.feed)
    try:
        if request.version >= (1, 1) and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            connection.write(CONTINUE)
        async with asyncio.timeout(timeout_seconds):
            while not content.at_eof() and len(body) <= max_bytes:
                if chunk := content.read_nowait():
                    body += chunk
                elif connection.input_ended:
                    raise RequestRejected(HTTPStatus.BAD_REQUEST, "truncated_body")
                elif chunks.malformed:
                    raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_body", "chunk")
                else:
                    await connection.wait_for_input()
    except TimeoutError:
        raise RequestRejected(HTTPStatus.REQUEST_TIMEOUT, "body_timeout") from None
    except (HttpProcessingError, web.RequestPayloadError, OSError, ValueError) as error:
        raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_body", type(error).__name__) from error
    return bytes(body)


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a `gzip` or `deflate` body decoded. Never holds more than `max_bytes` of output."""
    mode = _GZIP if encoding == "gzip" else _deflate_mode(body)
    decoded = bytearray()
    rest = body
    try:
        for _ in range(MAX_GZIP_MEMBERS):
            decoder = zlib.decompressobj(mode)
            decoded += decoder.decompress(rest, max_bytes + 1 - len(decoded))
            if len(decoded) > max_bytes:
                raise RequestRejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", "after decompression")
            if not decoder.eof:
                raise RequestRejected(HTTPStatus.BAD_REQUEST, "truncated_body", f"{encoding} without its end")
            rest = decoder.unused_data
            if not rest:
                return bytes(decoded)
            if mode != _GZIP:  # only gzip may have several members
                raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_body", f"{encoding}: data after the end")
        raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_body", f"more than {MAX_GZIP_MEMBERS} gzip members")
    except zlib.error as error:
        raise RequestRejected(HTTPStatus.BAD_REQUEST, "malformed_body", f"{encoding}: {error}") from error


def _deflate_mode(body: bytes) -> int:
    """Return how to decode `deflate`: with the zlib header that RFC 9110 requires, or without, as some senders do."""
    has_header = len(body) > 1 and body[0] & 0x0F == _DEFLATE_METHOD and (body[0] << 8 | body[1]) % 31 == 0
    return _ZLIB if has_header else _RAW_DEFLATE


def _list_value(headers: CIMultiDictProxy[str], name: str) -> str:
    return ",".join(headers.getall(name)).strip().lower()
