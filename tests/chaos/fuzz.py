"""Seeded requests: malformed in every layer, slow, or with connection faults. The same seed, the same corpus."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from tests.support.daemon import TOKEN, Daemon

GOOD = b'{"type":"video.status.created","asset_id":"5fd088e0a47da8246f1fb756","status":"queued"}'
PACKED = (gzip.compress(b"\0" * 3_000_000, 1), gzip.compress(GOOD)[:-4], b"no gzip", gzip.compress(GOOD))
"""A decompression bomb, a truncated body, an invalid one, and a valid one."""


class Fuzzed(NamedTuple):
    """A request as bytes, and how it is sent.

    `close`: its sender closes after the response. `cut`: it shuts down its side after the last byte. `slow`: it sends
    the bytes in pieces. `fault`: it does not read the response, and closes or resets the connection instead.
    `body` is what a 200 acknowledges; None where this module does not know it.
    """

    request: bytes
    close: bool
    cut: bool = False
    body: bytes | None = None
    slow: bool = False
    fault: Literal["", "close", "reset"] = ""


def corpus(seed: int, count: int) -> Iterator[Fuzzed]:
    """Yield requests: most well formed with fuzzed bodies, the rest malformed in every layer."""
    chance = random.Random(seed)
    makers: Sequence[Callable[[random.Random], Fuzzed]] = [_body] * 12 + [
        _head,
        _smuggling,
        _cut,
        _garbage,
        _encoded,
        _token,
        _slow,
        _half_closed,
        _pipelined,
        _chunked,
        _abandoned,
    ]
    for _ in range(count):
        yield chance.choice(makers)(chance)


def body(chance: random.Random) -> bytes:
    """Return JSON of any shape, the good body with bytes changed, or bytes."""
    kind = chance.randrange(4)
    if kind == 0:
        return json.dumps(_value(chance, 4)).encode("utf-8", "surrogatepass")
    if kind == 1:
        changed = bytearray(GOOD)
        for _ in range(chance.randrange(1, 6)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if kind == 2:
        document = json.loads(GOOD)
        document[chance.choice(["type", "asset_id", "status", "input", "output", "error", "created_at"])] = _value(
            chance, 3
        )
        return json.dumps(document).encode("utf-8", "surrogatepass")
    return chance.randbytes(chance.randrange(300))


def _value(chance: random.Random, depth: int) -> object:
    kind = chance.randrange(9 if depth else 6)
    if kind < 6:
        return (
            None,
            chance.random() < 0.5,
            chance.choice([0, -1, 2**63, -(2**70), 10**300]),
            chance.choice([0.1, -0.0, 1e308]),
            "".join(chr(chance.randrange(0xD7FF)) for _ in range(chance.randrange(20))),
            chance.choice(["", "\0", "null", "ready", "5fd088e0a47da8246f1fb756", "\ud800", "video.status.ready"]),
        )[kind]
    if kind == 6:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    names = (
        "type",
        "event",
        "asset_id",
        "live_asset_id",
        "status",
        "input",
        "output",
        "additional",
        "",
        "\0",
        "a" * 300,
    )
    return {chance.choice(names): _value(chance, depth - 1) for _ in range(chance.randrange(5))}


def request(content: bytes, *headers: str, line: str = "POST /webhooks/gumlet HTTP/1.1", token: str = TOKEN) -> bytes:
    """Return a request with the token."""
    head = "\r\n".join([line, "Host: x", f"x-gumlet-token: {token}", *headers])
    return head.encode("latin-1", "replace") + b"\r\n\r\n" + content


def _body(chance: random.Random) -> Fuzzed:
    content = body(chance)
    return Fuzzed(request(content, f"Content-Length: {len(content)}"), close=False, body=content)


def _head(chance: random.Random) -> Fuzzed:
    line = chance.choice(
        [
            "POST /webhooks/gumlet/%2e%2e/%00 HTTP/1.1",
            "POST //webhooks/gumlet HTTP/1.1",
            "POST http://elsewhere/webhooks/gumlet HTTP/1.1",
            "GET /metrics HTTP/1.1",
            "PRI * HTTP/2.0",
            "CONNECT x:1 HTTP/1.1",
            "POST /webhooks/gumlet HTTP/9.9",
            "POST /webhooks/gumlet/" + "a" * chance.randrange(9000) + " HTTP/1.1",
        ]
    )
    flood = [f"X-{number}: {'y' * chance.randrange(200)}" for number in range(chance.randrange(150))]
    return Fuzzed(request(b"{}", "Content-Length: 2", *flood, line=line), close=True)


def _smuggling(chance: random.Random) -> Fuzzed:
    headers = chance.choice(
        [
            ("Content-Length: 2", "Content-Length: 3"),
            ("Content-Length: 2", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding : chunked",),
            ("Content-Length: +2",),
            ("Content-Length: -1",),
            ("Content-Length: 0x2",),
            ("Content-Length: 99999999999999999999",),
            ("Transfer-Encoding: chunked\r\n X: folded",),
        ]
    )
    return Fuzzed(request(b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n", *headers), close=True)


def _cut(chance: random.Random) -> Fuzzed:
    whole = request(GOOD, f"Content-Length: {len(GOOD)}")
    return Fuzzed(whole[: chance.randrange(len(whole))], close=True, cut=True)


def _garbage(chance: random.Random) -> Fuzzed:
    return Fuzzed(chance.randbytes(chance.randrange(1, 500)) + b"\r\n\r\n", close=True, cut=True)


def _encoded(chance: random.Random) -> Fuzzed:
    content = chance.choice(PACKED)
    coding = chance.choice(["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "\xff"])
    return Fuzzed(request(content, f"Content-Encoding: {coding}", f"Content-Length: {len(content)}"), close=True)


def _token(chance: random.Random) -> Fuzzed:
    token = chance.choice(["", "x", TOKEN + " x", TOKEN[:-1], "x" * chance.randrange(6000), "\xe9" * 50])
    return Fuzzed(request(b"{}", "Content-Length: 2", token=token), close=True)


def _slow(chance: random.Random) -> Fuzzed:
    return _body(chance)._replace(slow=True)


def _half_closed(chance: random.Random) -> Fuzzed:
    return _body(chance)._replace(close=True, cut=True, slow=chance.random() < 0.5)


def _pipelined(chance: random.Random) -> Fuzzed:
    parts = b"".join(_body(chance).request for _ in range(chance.randrange(2, 60)))
    return Fuzzed(parts[: chance.randrange(len(parts))], close=True, cut=True)


def _chunked(chance: random.Random) -> Fuzzed:
    sizes = [chance.randrange(1, 40) for _ in range(chance.randrange(4))]
    chunks = bytearray(b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n")
    for _ in range(chance.randrange(3)):
        chunks[chance.randrange(len(chunks))] = chance.randrange(256)
    version = chance.choice(["1.1", "1.1", "1.0"])
    data = request(bytes(chunks), "Transfer-Encoding: chunked", line=f"POST /webhooks/gumlet HTTP/{version}")
    return Fuzzed(data, close=True, cut=True, slow=chance.random() < 0.3)


def _abandoned(chance: random.Random) -> Fuzzed:
    whole = _body(chance).request
    part = whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.5 else whole
    return Fuzzed(part, close=True, fault="reset" if chance.random() < 0.5 else "close")


def address(daemon: Daemon) -> tuple[str, int]:
    """Return where the daemon's public port is."""
    parts = urlsplit(daemon.public)
    return str(parts.hostname), int(parts.port or 0)


class Sender:
    """A fuzzer's connections: one at a time, kept as long as the daemon keeps it."""

    def __init__(self, daemon: Daemon) -> None:
        self._address = address(daemon)
        self._connection: socket.socket | None = None

    def send(self, data: bytes, *, close: bool, cut: bool = False) -> int | None:
        """Send a request and return the status of the response, or None."""
        return self.deliver(Fuzzed(data, close, cut))

    def deliver(self, fuzzed: Fuzzed) -> int | None:
        """Send a fuzzed request as it says; return the status of the first response, or None."""
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=30)
        answer = b""
        with contextlib.suppress(ConnectionError):
            for piece in _pieces(fuzzed.request) if fuzzed.slow else [fuzzed.request]:
                self._connection.sendall(piece)
                if fuzzed.slow:
                    time.sleep(0.002)
            if fuzzed.fault:
                self.close(reset=fuzzed.fault == "reset")
                return None
            if fuzzed.cut:
                self._connection.shutdown(socket.SHUT_WR)
            while b"\r\n\r\n" not in answer and (chunk := self._connection.recv(65536)):
                answer += chunk
        if fuzzed.close or fuzzed.cut or b"connection: close" in answer.lower() or not answer:
            self.close()
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else None

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, if there is one; with `reset` by a TCP reset."""
        if self._connection is not None:
            if reset:
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._connection.close()
            self._connection = None


def _pieces(data: bytes) -> list[bytes]:
    """Return data in up to eight pieces, the first ones of a few bytes."""
    cuts = sorted({1, 2, 20, len(data) // 2, len(data) - 3, len(data) - 1} & set(range(1, len(data))))
    return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]
