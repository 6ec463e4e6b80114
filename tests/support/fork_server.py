"""The bridge's commands as processes that start fast: forked from a process that has imported the bridge already.

Most of the CPU time of a test that runs `gumlet-bridge` several times is spent on imports. A forked command is a
process with its own id, environment, directory and output, receives signals, and ends as an interpreter ends; only the
imports are shared. Coverage follows them (`patch` in pyproject.toml).

`start` runs one command. The server (`python -m tests.support.fork_server SOCKET`) starts at the first call and ends
with the process that started it. Each command has a connection: the request goes to the server in one line of JSON, and
the process's id and later its exit code come back.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = ("bridge.daemon", *(f"bridge.cli.{path.stem}" for path in sorted((ROOT / "bridge/cli").glob("[a-z]*.py"))))


class ForkedProcess:
    """A forked command: the part of `subprocess.Popen` that tests use."""

    def __init__(self, connection: socket.socket, arguments: Sequence[str]) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._connection = connection
        self._replies = connection.makefile("rb")
        self._lock = threading.Lock()
        self.pid = int(self._replies.readline())

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired."""
        code = self._receive(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _receive(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
                self.returncode = int(self._replies.readline())
                self._replies.close()
                self._connection.close()
            return self.returncode


class _Server:
    """The server's process, as its user sees it."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="bridge-forks-")
        self.path = f"{self._scratch.name}/socket"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", self.path], cwd=ROOT, stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while not Path(self.path).exists():
            assert self.process.poll() is None, "the fork server ended"
            assert time.monotonic() < deadline, "the fork server did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and the commands that still run."""
        self.process.communicate()
        self._scratch.cleanup()


_servers: list[_Server] = []
_starting = threading.Lock()


def start(
    arguments: Sequence[str], env: Mapping[str, str], stdout: Path, stderr: Path, cwd: Path = ROOT
) -> ForkedProcess:
    """Run `gumlet-bridge` with arguments, without input; its output is appended to two files, or one."""
    with _starting:
        if not _servers:
            _servers.append(_Server())
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_servers[0].path)
    request = {"arguments": arguments, "env": dict(env), "cwd": str(cwd), "stdout": str(stdout), "stderr": str(stderr)}
    connection.sendall(json.dumps(request).encode() + b"\n")
    return ForkedProcess(connection, arguments)


def stop() -> None:
    """Stop the server, if it runs."""
    while _servers:
        _servers.pop().stop()


def _become(request: dict[str, Any]) -> None:
    """Make this process, just forked, the one that was requested."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = [str(ROOT / "bridge/__main__.py"), *request["arguments"]]


def _reply(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the other side may have ended
        connection.sendall(f"{number}\n".encode())


def _serve(path: str) -> dict[str, Any] | None:
    """Fork a process for each request, until standard input ends; return the request in the forked process."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)  # noqa: PTH104 - paths are text here
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        running: dict[int, tuple[int, socket.socket]] = {}
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    return None
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    with connection.makefile("rb") as lines:
                        request: dict[str, Any] = json.loads(lines.readline())
                    pid = os.fork()
                    if pid == 0:
                        for descriptor, (_, other) in running.items():
                            os.close(descriptor)
                            other.close()
                        connection.close()
                        return request
                    watched = os.pidfd_open(pid)
                    running[watched] = (pid, connection)
                    selector.register(watched, selectors.EVENT_READ)
                    _reply(connection, pid)
                else:
                    selector.unregister(key.fd)
                    pid, connection = running.pop(key.fd)
                    os.close(key.fd)
                    with connection:
                        _reply(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def main() -> None:
    """Import the bridge, and serve; in a forked process run the bridge."""
    from importlib import import_module  # noqa: PLC0415 - only the server's process imports the bridge

    for module in MODULES:
        import_module(module)
    from bridge.__main__ import main as bridge  # noqa: PLC0415

    gc.freeze()  # a forked process does not visit the imported objects when it ends
    if (request := _serve(sys.argv[1])) is not None:
        _become(request)
        bridge()


if __name__ == "__main__":
    main()
