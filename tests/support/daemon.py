"""The daemon and the load generator as processes of their own, for tests that use the bridge as its users do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit

from tests.support import fork_server
from tests.support.brokers.apache import free_port
from tests.support.fork_server import ForkedProcess

TOKEN = "a-token-of-the-tests"
START_SECONDS = 30.0
STOP_SECONDS = 60.0
BRIDGE = (sys.executable, "-m", "bridge")
Process: TypeAlias = subprocess.Popen[bytes] | ForkedProcess


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: str


def environment(**settings: object) -> dict[str, str]:
    """Return an environment without the caller's BRIDGE_ variables and with those of `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    return inherited | {f"BRIDGE_{name.upper()}": str(value) for name, value in settings.items()}


def wait_for(condition: Any, seconds: float = 30.0, what: str = "") -> None:
    """Wait until a condition holds; fail, naming it, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds} seconds: {what or condition}"
        time.sleep(0.02)


class Daemon:
    """`gumlet-bridge serve` with ports of its own and everything it needs in `directory`.

    It can be restarted on the same journal and ports. The ports are outside the range of outgoing connections:
    otherwise a client that connects while the daemon is down could be given the port and connect to itself. Settings
    are BRIDGE_ variables in lower case. With `source_tree` it runs the code of another checkout. Where
    `forked` is set, it starts without importing the bridge again.
    """

    forked: ClassVar[bool] = False

    def __init__(self, directory: Path, bootstrap_servers: str, prefix: str = "gumlet.", **settings: Any) -> None:
        self.directory = directory
        self.log_file = directory / "daemon.log"
        self.settings: dict[str, object] = {
            "listen": f"127.0.0.1:{free_port()}",
            "admin_listen": f"127.0.0.1:{free_port()}",
            "tokens": TOKEN,
            "journal_dir": directory / "journal",
            "journal_min_free_bytes": 0,
            "kafka_bootstrap_servers": bootstrap_servers,
            "topics_prefix": prefix,
            **settings,
        }
        self.wrapper: Sequence[str] = ()  # a command that replaces itself by the daemon: strace -D, prlimit, env
        self.process: Process | None = None
        self.source_tree: Path | None = None
        self.public = self.admin = ""
        self._log_from = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def spawn(self) -> Process:
        """Start the process without waiting for it."""
        self._log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
        settings = {name: value for name, value in self.settings.items() if value is not None}
        if self.forked and not self.wrapper and self.source_tree is None:
            env = environment(**settings)
            self.log_file.touch()
            self.process = fork_server.start(["serve"], env, self.log_file, self.log_file, self.directory)
            return self.process
        other_tree = {} if self.source_tree is None else {"PYTHONPATH": str(self.source_tree)}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *BRIDGE, "serve"],
                cwd=self.directory,
                env=environment(**settings) | other_tree,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def start(self) -> None:
        """Start, and return when deliveries are accepted; the ports stay the same from then on."""
        process = self.spawn()
        wait_for(lambda: self.logged("listening") or process.poll() is not None, START_SECONDS, "the daemon's start")
        assert process.poll() is None, self.log()
        (line,) = self.logged("listening")
        self.public, self.admin = line["public"], line["admin"]
        self.settings["listen"] = urlsplit(self.public).netloc
        self.settings["admin_listen"] = urlsplit(self.admin).netloc

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """Return what the process has logged since its start."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines: list[dict[str, Any]] = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                parsed = json.loads(line)
                if parsed.get("event") == event:
                    lines.append(parsed)
        return lines

    def post(
        self,
        body: bytes,
        path: str = "/webhooks/gumlet",
        token: str | None = TOKEN,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request and return the response."""
        all_headers = {} if token is None else {"x-gumlet-token": token}
        return request(self.public, method, path, body, all_headers | (headers or {}))

    def status(self) -> dict[str, Any]:
        """Return the status of the admin port."""
        return dict(json.loads(request(self.admin, "GET", "/status").body))

    def metric(self, sample: str) -> float:
        """Return the value of a sample, named with its labels as in the text format, or 0."""
        for line in request(self.admin, "GET", "/metrics").body.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def memory_mib(self, which: str = "VmRSS") -> float:
        """Return the resident memory of the process, or with `VmHWM` its maximum."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{which}:")[2].split()[0]) / 1024

    def drained(self) -> bool:
        """Return whether no delivery is pending."""
        return bool(self.status()["journal"]["deliveries"] == 0)


def request(
    base: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
    finally:
        connection.close()


class Load:
    """`gumlet-bridge simulate` as a process of its own, and its report."""

    def __init__(self, daemon: Daemon, directory: Path, count: int, seed: int, **options: object) -> None:
        self.acknowledged_file = directory / f"acknowledged-{seed}.jsonl"
        self._report: dict[str, Any] | None = None
        arguments = {"count": count, "seed": seed, "retry-after": 0.2, "concurrency": 32, **options}
        command = ["simulate", "--json", "--url", f"{daemon.public}/webhooks/gumlet"]
        command += ["--ack-log", str(self.acknowledged_file)]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        self._output = directory / f"report-{seed}.json"
        self.process: Process
        if Daemon.forked:
            self.process = fork_server.start(command, environment(tokens=TOKEN), self._output, Path(os.devnull))
            return
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*BRIDGE, *command], env=environment(tokens=TOKEN), stdout=output, stderr=subprocess.DEVNULL
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def acknowledged_so_far(self) -> int:
        """Return the number of acknowledged deliveries so far."""
        return self.acknowledged_file.read_bytes().count(b"\n") if self.acknowledged_file.exists() else 0

    def finish(self, seconds: float = 120.0) -> dict[str, Any]:
        """Wait for the end and return the report."""
        if self._report is None:
            code = self.process.wait(seconds)
            assert code == 0, self._output.read_text()
            self._report = dict(json.loads(self._output.read_bytes()))
        return self._report

    def acknowledged(self) -> list[dict[str, Any]]:
        """Return the acknowledged deliveries, each asset's in the order of acknowledgement."""
        return [json.loads(line) for line in self.acknowledged_file.read_text().splitlines()]
