"""One Apache Kafka node from its published jars: a process of ours that tests may kill, freeze and start again.

`libraries()` fetches the jars with Maven once per version into `.cache/`. `ApacheKafka` runs a node in KRaft mode
on ports that stay its own from start to start, with its data in a directory that the caller gives. Everything is
blocking: from a test's event loop, use `asyncio.to_thread`. Further listeners, SASL and more nodes come in as server
properties. Only the process that was started here is ever signalled, by its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).parents[3] / ".cache"
OLDEST_JAVA = 17
START_SECONDS = 90
STOP_SECONDS = 20
ARCHIVE_SECONDS = 120
"""For the stop of a node that also writes the archive of its classes."""
PORTS = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections: a client that tries a stopped node's port cannot take it."""

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
    "SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
    # One node has no replicas; one partition of each internal topic is enough and faster to create.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",
    # A node that was killed may register again only when its old session has ended.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
}


class KafkaUnavailableError(Exception):
    """Apache Kafka is not available in this way; the message has the reason."""


def kafka_version() -> str:
    """Return the version of Kafka that the POM names."""
    (version,) = re.findall(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    return str(version)


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def java() -> tuple[str, int]:
    """Return the Java program and its major version. Raises KafkaUnavailableError when it is missing or too old."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if program is None:
        raise KafkaUnavailableError(f"no Java (JAVA_HOME={home})" if home else "no Java")
    output = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', output)
    if found is None or int(found[1]) < OLDEST_JAVA:
        first = (output.splitlines() or ["nothing"])[0]
        raise KafkaUnavailableError(f"Java {OLDEST_JAVA} or newer is needed, {program} says {first}")
    return program, int(found[1])


def libraries() -> Path:
    """Return the directory of Kafka's jars, fetched with Maven when the cache has none for this POM.

    Raises KafkaUnavailableError, with Maven's message, when they are unavailable or Java to run them is missing.
    """
    java()  # required to run the jars
    return fetch_jars(POM, CACHE / f"kafka-{kafka_version()}")


def fetch_jars(pom: Path, home: Path) -> Path:
    """Return the directory of a POM's jars, `libs` in `home`; fetched when `home` does not contain the same POM.

    Raises KafkaUnavailableError, with Maven's message, when they are unavailable.
    """
    if (home / "pom.xml").is_file() and (home / "pom.xml").read_bytes() == pom.read_bytes():
        return home / "libs"
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError("no Maven (mvn) to fetch jars with")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        fetched = Path(scratch, "jars")
        command = [
            *(maven, "-q", "-B", "-f", str(pom)),
            *("dependency:copy-dependencies", f"-DoutputDirectory={fetched}/libs"),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            errors = [line for line in run.stdout.splitlines() if "ERROR" in line] or ["nothing"]
            raise KafkaUnavailableError(f"Maven could not fetch the jars: {errors[0]}")
        shutil.copy(pom, fetched)
        # Renamed when complete: an interrupted fetch leaves nothing that looks like one.
        shutil.rmtree(home, ignore_errors=True)
        fetched.rename(home)
    return home / "libs"


class ApacheKafka:
    """A Kafka node: `start()`, `stop()`, `kill()`, `freeze()`, `thaw()`; again and again on the same ports and data.

    `directory` holds its data, `server.properties` and `server.log`. `properties` add to or replace PROPERTIES
    and may be changed until the first start;
    `listeners` are further ones, a protocol and its HOST:PORT (`free_port()`); the property `advertised.listeners`
    names what the further ones advertise;
    `format_as` are StorageTool's arguments for the kind of node (`--standalone`: a cluster of its own).
    With `archives_classes`, `stop` leaves an archive of the parsed classes next to the jars if there is none: with it,
    later nodes start with about 0.6 of the CPU time.
    """

    def __init__(  # noqa: PLR0913 - what one node differs in
        self,
        libs: Path,
        directory: Path,
        *,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        format_as: Sequence[str] = ("--standalone",),
        archives_classes: bool = False,
    ) -> None:
        libs = libs.resolve()  # an archive is valid for the path that it was made with
        self.port = free_port()
        self.controller_port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        self.directory = directory
        self.log = directory / "server.log"
        self._format_as = format_as
        self._process: subprocess.Popen[bytes] | None = None
        self._java = [
            java()[0],
            "-Xmx512m",
            "-XX:+UseSerialGC",
            # Only the fast compiler: a test's Kafka does not run long enough for the optimizing one.
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-Xlog:cds=off,cds+dynamic=off",
            "-cp",
            f"{libs}/*",
        ]
        self._archive = libs.parent / f"classes-java-{java()[1]}.jsa"
        self._new_archive = self._archive.with_suffix(f".{os.getpid()}")
        if self._archive.exists():
            self._java.insert(1, f"-XX:SharedArchiveFile={self._archive}")
            archives_classes = False
        self._archive_option = [f"-XX:ArchiveClassesAtExit={self._new_archive}"] if archives_classes else []
        given = {**PROPERTIES, **(properties or {})}
        addresses = {"PLAINTEXT": self.bootstrap_servers, **(listeners or {})}
        if "controller" in given["process.roles"]:
            addresses["CONTROLLER"] = f"127.0.0.1:{self.controller_port}"
        if advertised := given.pop("advertised.listeners", None):
            given["advertised.listeners"] = f"PLAINTEXT://{self.bootstrap_servers},{advertised}"
        self.properties = {
            "listeners": ",".join(f"{name}://{address}" for name, address in addresses.items()),
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "log.dirs": str(directory / "data"),
            **given,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the node and return when it answers a metadata request. Its data is formatted the first time."""
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "server.properties"
        if not settings.exists():
            settings.write_text("".join(f"{name}={value}\n" for name, value in self.properties.items()))
            self._format(settings)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._java[0], *self._archive_option, *self._java[1:], "kafka.Kafka", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Terminate the node and wait; kill it after STOP_SECONDS."""
        if self._process is None:
            return
        self.thaw()  # a frozen process does not react to signals
        self._process.terminate()
        try:
            self._process.wait(ARCHIVE_SECONDS if self._archive_option else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._new_archive.unlink(missing_ok=True)
        if self._new_archive.exists():
            self._new_archive.rename(self._archive)

    def kill(self) -> None:
        """Kill the node (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Suspend the node (SIGSTOP): its connections stay open and get no response."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen node (SIGCONT)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _format(self, settings: Path) -> None:
        tool = [*self._java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings)]
        run = subprocess.run([*tool, *self._format_as], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise KafkaUnavailableError(f"Kafka's storage could not be formatted: {run.stdout}{run.stderr}")

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        # An open port is not enough (it is bound early): the node must respond to a metadata request.
        # The request needs an event loop of its own: the caller's may be running.
        with ThreadPoolExecutor(1) as loop:
            while not (self._listens() and loop.submit(asyncio.run, _responds(self.bootstrap_servers)).result()):
                if not self.running or time.monotonic() > until:
                    last = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                    raise KafkaUnavailableError(f"Kafka did not start; the end of its log:\n{last}")
                time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


async def _responds(bootstrap_servers: str) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=5000)
    try:
        await admin.start()
        return bool((await admin.describe_cluster())["brokers"])
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
