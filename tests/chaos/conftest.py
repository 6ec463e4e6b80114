"""Fixtures of the chaos suite: a Kafka that scenarios may hurt, the scenario itself, and the table at the end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.chaos.framework import SEED, Chaos, Line, kafka_with_proxied_listener, proxied, table
from tests.chaos.proxy import Proxy
from tests.support.brokers import ApacheKafka

FAULTS = Path(__file__).with_name("faults.c")
_lines: list[Line] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if _lines:
        terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
        for row in table(_lines):
            terminalreporter.write_line(row)
        lost, took = sum(line.lost for line in _lines), sum(line.took for line in _lines)
        terminalreporter.write_line(f"{len(_lines)} scenarios, lost {lost}, {took:.0f} s")


@pytest.fixture(scope="session")
def _shared_victim(kafka_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with kafka_with_proxied_listener(kafka_libraries, tmp_path_factory.mktemp("victim")) as node:
        yield node


@pytest.fixture
def victim(_shared_victim: ApacheKafka, prefix: str) -> Iterator[ApacheKafka]:
    """Give a Kafka to be killed, frozen and restarted; healed before the next scenario gets it."""
    yield _shared_victim
    _shared_victim.thaw()
    _shared_victim.start()
    # With the partitions of all scenarios, a million events in some, each further start would take longer.
    admin = AdminClient({"bootstrap.servers": _shared_victim.bootstrap_servers})
    names = [name for name in admin.list_topics(timeout=60).topics if name.startswith(prefix)]
    for deleted in (admin.delete_topics(names) if names else {}).values():
        deleted.result(60)


@pytest.fixture
def proxy(victim: ApacheKafka) -> Iterator[Proxy]:
    """Give a way to Kafka that can be hurt: the listener that the victim advertises behind it."""
    with Proxy(*proxied(victim)) as way:
        yield way


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that is preloaded into a daemon to hurt it; skip, by name, where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the faults with")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(FAULTS)], check=True)
    return library


@pytest.fixture
def chaos(request: pytest.FixtureRequest, tmp_path: Path, prefix: str, victim: ApacheKafka) -> Iterator[Chaos]:
    """Make the scenario, named after its test."""
    scenario = Chaos(
        request.node.name.removeprefix("test_").replace("_", " "),
        tmp_path,
        victim.bootstrap_servers,
        prefix,
        _lines,
    )
    yield scenario
    for load in scenario.loads:
        load.__exit__()
