"""Fixtures that every kind of test may ask for: the brokers, and a prefix that keeps tests' topics apart.

A broker starts when the first test asks for it and serves the whole run. What it was is said at the end of the run;
so is every test that was not run because no Apache Kafka could be had.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from bridge.devtools.embedded_broker import EmbeddedBroker
from tests.support import brokers
from tests.support.brokers import Broker
from tests.support.brokers.guarded import GuardedKafka, guarded_kafka
from tests.support.fake_registry import StrictRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_taken = pytest.StashKey[list[str]]()
_NO_KAFKA = "no Apache Kafka"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the brokers' descriptions where the summary finds them."""
    config.stash[_taken] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which brokers the tests ran on, and name each test that had none."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "covered":
                terminalreporter.write_line(f"covered: {value}")
    missed = [report for report in terminalreporter.stats.get("skipped", []) if _NO_KAFKA in str(report.longrepr)]
    taken = config.stash[_taken]
    if taken:
        terminalreporter.write_line(f"brokers: {', '.join(taken)}")
    if missed:
        reason = str(missed[0].longrepr[2]).removeprefix("Skipped: ")
        terminalreporter.write_line(f"NOT RUN, {len(missed)} tests, {reason}", yellow=True)
        for report in missed:
            terminalreporter.write_line(f"  {report.nodeid}", yellow=True)


@pytest.fixture(scope="session")
def apache_kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka, the best that can be had; shared by the run."""
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(brokers.apache_kafka(tmp_path_factory.mktemp("kafka")))
        except brokers.KafkaUnavailableError as reason:
            pytest.skip(f"{_NO_KAFKA}: {reason}")
        pytestconfig.stash[_taken].append(broker.description)
        yield broker


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
def embedded_broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """Embedded broker of librdkafka; shared by the run."""
    with EmbeddedBroker() as embedded:
        description = f"embedded broker (librdkafka {embedded.version})"
        pytestconfig.stash[_taken].append(description)
        yield Broker(embedded.bootstrap_servers, description, embedded=True)


@pytest.fixture(params=["embedded_broker", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn: what passes on one must pass on the other."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["played", "real"])
def registry_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Take in turn the schema registry that these tests play, and the real one that BRIDGE_TEST_REGISTRY_URL names."""
    if request.param == "real":
        given = os.environ.get("BRIDGE_TEST_REGISTRY_URL")
        if not given:
            pytest.skip("BRIDGE_TEST_REGISTRY_URL names no schema registry")
        yield given
        return
    with StrictRegistry() as played:
        yield played.url


@pytest.fixture
def prefix() -> str:
    """Begin a test's topics and groups so that no other test's are the same."""
    return f"t{uuid.uuid4().hex[:8]}."
