"""Pipelined requests and requests in pieces over one connection: responses come in the order of the requests."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bridge.contract.schemas import schemas_directory
from tests.support.brokers import Broker
from tests.support.daemon import TOKEN, Daemon, wait_for
from tests.support.delivery_checker import read_all

BODY = (schemas_directory() / "examples/video.status.ready/full.in.json").read_bytes()
NOWHERE = "127.0.0.1:1"


def whole(body: bytes = BODY, token: str = TOKEN, path: str = "/webhooks/gumlet", more: str = "") -> bytes:
    """Return a request in one piece."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bridge\r\nx-gumlet-token: {token}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


class Sender:
    """A connection that sends raw bytes and reads the responses one by one."""

    def __init__(self, daemon: Daemon) -> None:
        address = urlsplit(daemon.public)
        self.socket = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=20)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send each piece in a segment of its own."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(0.05)

    def answer(self) -> tuple[int, dict[str, str]]:
        """Read one answer: its status and its headers."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        self._file.read(int(headers["content-length"]))
        return status, headers

    def deliver(self) -> int:
        """Send a delivery and return the status of its answer."""
        self.send(whole())
        return self.answer()[0]

    def closed(self) -> bool:
        """Return whether the other side has closed the connection."""
        return self._file.read(1) == b""


@contextlib.contextmanager
def connected(daemon: Daemon) -> Iterator[Sender]:
    """Hold one connection to the public port."""
    sender = Sender(daemon)
    with sender.socket:
        yield sender


@pytest.fixture(scope="module")
def daemon(embedded_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run one daemon for the tests that only ask."""
    directory = tmp_path_factory.mktemp("daemon")
    settings = {"topics_provision": "create", "max_body_bytes": 50_000}
    with Daemon(directory, embedded_broker.bootstrap_servers, "pieces.", **settings) as running:
        yield running


def test_one_connection_takes_many_deliveries(daemon: Daemon) -> None:
    """A connection stays open between deliveries, whether they come in one piece or in two."""
    head, body = whole().split(b"\r\n\r\n")
    with connected(daemon) as sender:
        for pieces in ([whole()], [head + b"\r\n\r\n", body], [whole()], [whole(path="/webhooks/gumlet/films")] * 2):
            sender.send(*pieces)
            for _ in range(1 if len(pieces) == 1 or pieces[1] is body else 2):
                status, headers = sender.answer()
                assert status == 200
                assert headers["server"] == "bridge"
                assert headers["date"].endswith("GMT")
                assert headers.get("connection") != "close"


def test_answers_are_in_the_order_of_the_requests(daemon: Daemon) -> None:
    """Requests sent without waiting for responses are answered in order; a rejection is the last response."""
    requests = [whole(), whole(path="/webhooks/gumlet/films"), whole(), whole(token="wrong"), whole()]
    for pieces in ([b"".join(requests)], requests):
        with connected(daemon) as sender:
            with contextlib.suppress(ConnectionError):  # closed after the 401
                sender.send(*pieces)
            assert [sender.answer()[0] for _ in range(4)] == [200, 200, 200, 401]
            assert sender.closed()


@pytest.mark.parametrize("count", [18, 100])
def test_half_closed_connection_gets_the_response_to_each_pipelined_request(daemon: Daemon, count: int) -> None:
    """The sender shuts down its side after the last request: every request is answered, then the connection closes."""
    with connected(daemon) as sender:
        sender.socket.sendall(whole() * count)
        sender.socket.shutdown(socket.SHUT_WR)
        assert [sender.answer()[0] for _ in range(count)] == [200] * count
        assert sender.closed()


async def test_each_delivery_is_published_once(embedded_broker: Broker, tmp_path: Path) -> None:
    """All that one connection delivered without waiting is on Kafka, each once and in its order."""
    bodies = [BODY.replace(b'"progress": 100', b'"progress": %d' % number) for number in range(100)]
    assert len(set(bodies)) == 100
    settings = {"topics_provision": "create"}
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, "once.", **settings) as running:
        with connected(running) as sender:
            sender.send(whole(bodies[0]), b"".join(whole(body) for body in bodies[1:50]))
            for body in bodies[50:]:
                sender.socket.sendall(whole(body))
            assert [sender.answer()[0] for _ in bodies] == [200] * 100
        wait_for(running.drained, 30, "the drain")
    records = await read_all(embedded_broker.bootstrap_servers, ["once.video.status.ready"])
    assert [json.loads(record.value)["progress_percent"] for record in records] == list(range(100))


def test_what_comes_before_the_answer_does_not_overtake(tmp_path: Path) -> None:
    """A refusal that could be given at once waits for the answer to the delivery before it, which waits for Kafka."""
    with Daemon(tmp_path, NOWHERE, "overtake.", ack="kafka", ack_timeout_seconds=1) as running:
        with connected(running) as sender:
            sender.send(whole(), whole(token="wrong"))
            status, headers = sender.answer()
            assert status == 503
            assert headers["retry-after"]
            assert sender.answer()[0] == 401
            assert sender.closed()
        assert running.metric('bridge_http_requests_rejected_total{reason="kafka_ack_timeout",status="503"}') == 1
        assert running.metric('bridge_http_requests_total{source="default",status="503"}') == 1


def test_reading_goes_on_after_a_request_without_a_body(tmp_path: Path) -> None:
    """Three requests, each sent before the last has its answer, the second one empty: three answers."""
    with (
        Daemon(tmp_path, NOWHERE, "empty.", ack="kafka", ack_timeout_seconds=1) as running,
        connected(running) as sender,
    ):
        sender.send(whole(), whole(b""), whole())
        assert [sender.answer()[0] for _ in range(3)] == [503] * 3


def test_a_connection_that_waits_for_its_answer_is_not_idle(tmp_path: Path) -> None:
    """An answer that takes longer than idle connections may last still comes; an idle connection is closed."""
    settings = {"ack": "kafka", "ack_timeout_seconds": 4, "keepalive_timeout_seconds": 1}
    with Daemon(tmp_path, NOWHERE, "idle.", **settings) as running, connected(running) as sender:
        sender.send(whole())
        assert sender.answer()[0] == 503
        assert sender.closed()


def test_a_journal_that_is_gone_refuses(tmp_path: Path) -> None:
    """A journal whose directory is taken away answers 503 with Retry-After, and says why."""
    with Daemon(tmp_path, NOWHERE, "gone.") as running, connected(running) as sender:
        shutil.rmtree(tmp_path / "journal")
        # What is free on the disk is looked up once a second.
        wait_for(lambda: sender.deliver() == 503, 10, "the refusal")
        assert running.logged("request_rejected")[-1]["reason"] == "journal_unavailable"
        assert not running.logged("internal_error")


def test_a_full_journal_refuses_and_the_connection_goes_on(tmp_path: Path) -> None:
    """503 with Retry-After when the journal has no room, on a connection that can be used again."""
    with Daemon(tmp_path, NOWHERE, "full.", journal_max_bytes=2**20) as running, connected(running) as sender:
        answers = []
        for _ in range(20):
            sender.send(whole(b"x" * 60_000))  # small enough to arrive in one read
            answers.append(sender.answer())
        assert {status for status, _ in answers[:17]} == {200}
        assert [status for status, _ in answers[17:]] == [503] * 3
        assert answers[-1][1]["retry-after"]
        assert running.logged("request_rejected")[-1]["reason"] == "journal_full"


def test_a_delivery_that_waits_while_the_bridge_stops_has_its_answer(tmp_path: Path) -> None:
    """SIGTERM while a delivery waits: its sender gets an answer, and then the end of the connection."""
    with (
        Daemon(tmp_path, NOWHERE, "stop.", ack="kafka", ack_timeout_seconds=5) as running,
        connected(running) as sender,
    ):
        sender.send(whole())
        wait_for(lambda: running.status()["journal"]["deliveries"] == 1, 5, "the delivery")
        assert running.stop() == 0
        status, headers = sender.answer()
        assert status == 503
        assert headers["connection"] == "close"
        assert sender.closed()
