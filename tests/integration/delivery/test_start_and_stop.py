"""Starting and stopping: a signal is never ignored, and a stop ends in time whatever does not respond."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.brokers import ApacheKafka
from tests.support.daemon import Daemon, Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def first_process(unshare: Process) -> int:
    """Return the id, out here, of the first process of a namespace; 0 while there is none."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    return int(children[0]) if children else 0


def handles_sigterm(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM."""
    (caught,) = [
        line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    ]
    return bool(int(caught, 16) & SIGTERM_BIT)


def test_sigterm_while_starting_as_the_first_process_of_a_container_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler is there before the libraries are: a pod that is deleted while it starts ends at once."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):  # coverage has a handler of its own
        monkeypatch.delenv(name, raising=False)
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no process namespace can be made here: {probe.stderr.decode().strip()}")
    daemon = Daemon(tmp_path, "127.0.0.1:1")
    daemon.wrapper = NAMESPACE
    process = daemon.spawn()
    try:
        pid = 0
        while not pid or not handles_sigterm(pid):
            assert process.poll() is None, daemon.log()
            pid = first_process(process)
        imported = Path(f"/proc/{pid}/maps").read_text()
        os.kill(pid, signal.SIGTERM)
        assert process.wait(20) == 0, daemon.log()
    finally:
        process.kill()
        process.wait()
    assert "orjson" not in imported, "the libraries were imported before the signal was handled"
    assert not daemon.logged("listening")


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Yield the address of a server that accepts connections, reads, and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        for each in held:
            each.close()


def test_stop_is_bounded_while_kafka_and_registry_are_silent(tmp_path: Path) -> None:
    """Servers that accept connections and never respond do not hold up a stop; what was acknowledged is kept."""
    with silent_server() as kafka, silent_server() as registry:
        settings = {"registry_url": f"http://{registry}", "registry_wire_format": "confluent"}
        with Daemon(tmp_path, kafka, shutdown_timeout_seconds=3, **settings) as daemon:
            assert daemon.post(b"{}").status == 200
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 2 * 3 + 20
            assert daemon.logged("drain_incomplete")
            assert "Traceback" not in daemon.log()


def test_stop_beside_a_frozen_kafka_is_bounded_and_logs_no_traceback(
    kafka_libraries: Path, tmp_path: Path, prefix: str
) -> None:
    """Batches under way to a frozen Kafka are left to the journal, without an error of aiokafka in the log."""
    with (
        ApacheKafka(kafka_libraries, tmp_path / "kafka") as kafka,
        Daemon(tmp_path, kafka.bootstrap_servers, prefix, shutdown_timeout_seconds=3) as daemon,
    ):
        assert daemon.post(b"{}").status == 200
        wait_for(daemon.drained, 60)
        kafka.freeze()
        for _ in range(20):
            assert daemon.post(b"{}").status == 200
        time.sleep(1)
        assert daemon.stop() == 0
        assert daemon.logged("drain_incomplete")
        assert "Traceback" not in daemon.log()
        kafka.thaw()
        daemon.start()
        wait_for(daemon.drained, 60)
