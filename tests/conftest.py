"""Fixtures for all tests: brokers, schema registries, and a topic prefix for each test.

A broker starts when the first test requests it. The processes of a run share one Apache Kafka and report through files
of the run's directory. The summary names the brokers, the tests that were skipped because no Apache Kafka is available,
and the tests that were left out because they are marked long.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bridge.devtools.embedded_broker import EmbeddedBroker
from tests.support import brokers, fork_server
from tests.support.brokers import Broker
from tests.support.brokers.guarded import GuardedKafka, guarded_kafka
from tests.support.brokers.shared import SharedKafka
from tests.support.fake_registry import StrictRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RUN_DIRECTORY = "BRIDGE_TEST_RUN_DIRECTORY"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
_NO_KAFKA = "no Apache Kafka"


def _run_directory() -> Path:
    return Path(os.environ[RUN_DIRECTORY])


def pytest_configure() -> None:
    """Accept SIGINT, and create the run's directory in the process that starts the others."""
    # A shell starts background commands with SIGINT ignored, which the commands under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not WORKER:
        os.environ[RUN_DIRECTORY] = tempfile.mkdtemp(prefix="bridge-tests-")


def pytest_unconfigure() -> None:
    """Stop the fork server, wait until the shared Kafka has stopped, and remove the run's directory."""
    fork_server.stop()
    if not WORKER:
        SharedKafka(_run_directory() / "kafka").join()
        shutil.rmtree(_run_directory())


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Record how many tests of each file are left out because they are marked long."""
    files = Counter(item.nodeid.partition("::")[0] for item in items if item.get_closest_marker("long"))
    if files and WORKER in ("", "gw0"):
        lines = [f"{count} of {name}" for name, count in files.items()]
        (_run_directory() / "left-out").write_text("\n".join(lines))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the brokers that the tests ran on, what enumerations covered, and the tests that did not run."""
    used = sorted({path.read_text() for path in _run_directory().glob("broker-*")})
    if used:
        terminalreporter.write_line(f"brokers: {', '.join(used)}")
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "covered":
                terminalreporter.write_line(f"covered: {value}")
    missed = [report for report in terminalreporter.stats.get("skipped", []) if _NO_KAFKA in str(report.longrepr)]
    if missed:
        reason = str(missed[0].longrepr[2]).removeprefix("Skipped: ")
        terminalreporter.write_line(f"NOT RUN, {len(missed)} tests, {reason}", yellow=True)
        for report in missed:
            terminalreporter.write_line(f"  {report.nodeid}", yellow=True)
    left_out = _run_directory() / "left-out"
    if left_out.exists():
        terminalreporter.write_line("NOT RUN, tests marked long:", yellow=True)
        for line in left_out.read_text().splitlines():
            terminalreporter.write_line(f"  {line}", yellow=True)


def _report_use(broker: Broker) -> None:
    (_run_directory() / f"broker-{uuid.uuid4()}").write_text(broker.description)


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Broker]:
    """Apache Kafka, shared by all processes of the run."""
    kafka = SharedKafka(_run_directory() / "kafka")
    try:
        broker = kafka.acquire()
    except brokers.KafkaUnavailableError as reason:
        pytest.skip(f"{_NO_KAFKA}: {reason}")
    _report_use(broker)
    yield broker
    kafka.release()


@pytest.fixture(scope="session")
def kafka_libraries() -> Path:
    """Kafka's jars, for tests that run nodes of their own with `ApacheKafka`."""
    try:
        return brokers.libraries()
    except brokers.KafkaUnavailableError as reason:
        pytest.skip(f"{_NO_KAFKA}: {reason}")


@pytest.fixture(scope="session")
def session_guarded_kafka(kafka_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """Apache Kafka with access control; shared by the run."""
    with guarded_kafka(kafka_libraries, tmp_path_factory.mktemp("guarded")) as node:
        yield node


@pytest.fixture(name="guarded_kafka")
def guarded_kafka_without_acls(session_guarded_kafka: GuardedKafka) -> Iterator[GuardedKafka]:
    """Apache Kafka with access control, with the ACLs that the test creates and no others."""
    yield session_guarded_kafka
    session_guarded_kafka.revoke()


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[Broker]:
    """Librdkafka's embedded broker, one for each process of the run."""
    with EmbeddedBroker() as embedded:
        description = f"embedded broker (librdkafka {embedded.version})"
        broker = Broker(embedded.bootstrap_servers, description, embedded=True)
        _report_use(broker)
        yield broker


@pytest.fixture(params=["embedded_broker", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fake", "real"])
def registry_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of the fake schema registry, then of the real one that BRIDGE_TEST_REGISTRY_URL names."""
    if request.param == "real":
        given = os.environ.get("BRIDGE_TEST_REGISTRY_URL")
        if not given:
            pytest.skip("BRIDGE_TEST_REGISTRY_URL names no schema registry")
        yield given
        return
    with StrictRegistry() as fake:
        yield fake.url


@pytest.fixture
def prefix() -> str:
    """Topic and group prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}."
