"""A TCP proxy that a test can make slow, cut, or leave half open, between the bridge and Kafka."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal, Self

Mode = Literal["pass", "slow", "half-open", "down"]
CHUNK = 16 * 1024


class Proxy:
    """Forwards each connection to `upstream` in the mode that is set, which may change at any time.

    `slow`: small pieces with a pause before each. `half-open`: bytes to Kafka are dropped, connections stay open.
    `down`: connections are closed at once.
    `cut(after)`: the connections of now are reset once that many more bytes have gone to Kafka.
    """

    def __init__(self, port: int, upstream: int) -> None:
        self.port = port
        self.mode: Mode = "pass"
        self._upstream = upstream
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._budget: int | None = None
        self.cuts = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.reset()

    def cut(self, after: int) -> None:
        """Reset every connection after so many more bytes: in the middle of a request."""
        self._budget = after

    def reset(self) -> None:
        """Reset every connection now."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.mode == "down":
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, to_kafka: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while data := source.recv(1024 if self.mode == "slow" else CHUNK):
                if self.mode == "slow":
                    time.sleep(0.02)
                while self.mode == "half-open" and to_kafka:
                    time.sleep(0.05)
                    source.getpeername()  # an error once it is closed
                if to_kafka and self._budget is not None:
                    self._budget -= len(data)
                    if self._budget <= 0:
                        self._budget = None
                        target.sendall(data[: len(data) // 2])
                        self.cuts += 1
                        self.reset()
                        return
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
