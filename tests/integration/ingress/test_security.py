"""Unauthorized requests are rejected, do not slow the authorized sender and disclose no secret."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.framework import LONG, topics
from tests.chaos.fuzz import GOOD, Sender, address, corpus, request
from tests.support.brokers import Broker
from tests.support.daemon import BRIDGE, TOKEN, Daemon, environment, wait_for
from tests.support.daemon import request as http
from tests.support.delivery_checker import read_all

HONEST_SECONDS = 5.0
"""Bound for the honest sender's slowest answer while others attack, on a machine with other work to do."""


def honest(daemon: Daemon, count: int) -> float:
    """Deliver as Gumlet does, and return the slowest answer's time; each must be 200."""
    slowest = 0.0
    for _ in range(count):
        began = time.monotonic()
        assert daemon.post(GOOD).status == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@contextlib.contextmanager
def slow_senders(daemon: Daemon, count: int) -> Iterator[None]:
    """Hold connections that send their headers a byte at a time, and never all."""
    held = [socket.create_connection(address(daemon), timeout=30) for _ in range(count)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for each in held:
                with contextlib.suppress(OSError):
                    each.send(b"P")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for each in held:
            each.close()


def test_slow_senders_do_not_slow_the_honest_one(tmp_path: Path) -> None:
    """With hundreds of connections that never finish a header, honest deliveries get 200 within the bound."""
    with Daemon(tmp_path, "127.0.0.1:1") as daemon, slow_senders(daemon, 1000 if LONG else 400):
        assert honest(daemon, 50) < HONEST_SECONDS


def test_bombs_and_floods_do_not_slow_the_honest_one(tmp_path: Path) -> None:
    """While bombs, floods and wrong tokens come as fast as they can, honest deliveries get 200 within the bound."""
    with Daemon(tmp_path, "127.0.0.1:1") as daemon:
        stop = threading.Event()

        def attack() -> None:
            with contextlib.closing(Sender(daemon)) as sender:
                for fuzzed in corpus(7, 1_000_000):
                    if stop.is_set():
                        return
                    if fuzzed.close:
                        sender.deliver(fuzzed)

        threads = [threading.Thread(target=attack) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            assert honest(daemon, 100) < HONEST_SECONDS
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_token_ends_at_its_time_while_running(tmp_path: Path) -> None:
    """A named token is accepted until its end, then refused; its last use is in the metrics by name, not by value."""
    file = tmp_path / "tokens"
    end = time.time() + 3600
    file.write_text(f"first-secret name=first expires={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(end))}\nplain\n")
    settings: dict[str, Any] = {"tokens": None, "tokens_file": file}
    with Daemon(tmp_path, "127.0.0.1:1", **settings) as daemon:
        assert daemon.post(GOOD, token="first-secret").status == 200
        assert daemon.metric('bridge_token_last_used_timestamp_seconds{name="first"}') > 0
        file.write_text("first-secret name=first expires=2001-01-01\nplain\n")
        wait_for(lambda: daemon.post(GOOD, token="first-secret").status == 401)
        assert daemon.logged("token_expired")[0]["name"] == "first"
        assert daemon.post(GOOD, token="plain").status == 200
        assert "first-secret" not in daemon.log()


def test_a_smuggled_request_is_not_answered(tmp_path: Path) -> None:
    """What stands behind a message that can be read in two ways is never read as a request of its own."""
    inner = request(b"{}", "Content-Length: 2")
    with Daemon(tmp_path, "127.0.0.1:1") as daemon:
        for headers in (
            ("Content-Length: 4", "Transfer-Encoding: chunked"),
            ("Content-Length: 4", f"Content-Length: {len(inner)}"),
        ):
            with socket.create_connection(address(daemon), timeout=20) as connection:
                connection.sendall(request(b"0\r\n\r\n" + inner, *headers))
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
            assert re.findall(rb"HTTP/1.[01] (\d+)", answer) == [b"400"]
        assert daemon.status()["journal"]["deliveries"] == 0


def test_nothing_of_the_admin_port_is_on_the_public_one(tmp_path: Path) -> None:
    """Health, metrics and status exist on the admin port alone, and deliveries on the public one alone."""
    with Daemon(tmp_path, "127.0.0.1:1") as daemon:
        for path in ("/", "/livez", "/readyz", "/metrics", "/status"):
            assert http(daemon.public, "GET", path).status == 404
        assert http(daemon.admin, "POST", "/webhooks/gumlet", GOOD, {"x-gumlet-token": TOKEN}).status == 404


async def test_a_secret_is_nowhere(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """No token is in a log at its most talkative, a metric, a page, the journal, a record, an error or `ps`."""
    secrets = ["an-environment-secret", "a-file-secret", "a-wrong-secret"]
    file = tmp_path / "tokens"
    file.write_text("a-file-secret name=gumlet\n")
    settings: dict[str, Any] = {"tokens": secrets[0], "tokens_file": file, "log_level": "debug"}
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, **settings) as daemon:
        assert [daemon.post(GOOD, token=each).status for each in secrets] == [200, 200, 401]
        daemon.post(b"broken", token=secrets[0])
        Sender(daemon).send(request(b"{}", "Content-Length: x", token=secrets[0]), close=True)
        wait_for(daemon.drained)
        pages = [http(daemon.admin, "GET", path).body for path in ("/", "/livez", "/readyz", "/metrics", "/status")]
        answers = [daemon.post(GOOD, token=each) for each in secrets]
        pages += [f"{answer.headers}{answer.body}" for answer in answers]
        processes = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        wait_for(daemon.drained)
        records = await read_all(apache_kafka.bootstrap_servers, topics(prefix))
        journal = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
        daemon.stop()
    broken = environment(**{**settings, "listen": "nowhere", "tokens_file": tmp_path / "none"})
    told = subprocess.run([*BRIDGE, "serve"], env=broken, capture_output=True, text=True, check=False)
    assert told.returncode == 78
    published = b"".join((record.key or b"") + record.value + repr(record.headers).encode() for record in records)
    places = {
        "log": daemon.log_file.read_text(),
        "pages": "".join(pages),
        "ps": processes,
        "records": published.decode(errors="replace"),
        "journal": journal.decode(errors="replace"),
        "error": told.stdout + told.stderr,
    }
    assert published
    found = [(place, secret) for place, text in places.items() for secret in secrets if secret in text]
    assert not found, found
    assert daemon.log_file.stat().st_size


@pytest.mark.parametrize("token", ["x" * 7000, TOKEN + "\x00", TOKEN.upper(), f" {TOKEN} x"])
def test_odd_tokens_do_not_pass(tmp_path: Path, token: str) -> None:
    """Neither a very long token nor an almost correct one is accepted."""
    with Daemon(tmp_path, "127.0.0.1:1") as daemon:
        assert Sender(daemon).send(request(b"{}", "Content-Length: 2", token=token), close=True) in (400, 401)
        assert daemon.status()["journal"]["deliveries"] == 0
