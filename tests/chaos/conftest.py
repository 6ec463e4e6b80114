"""Fixtures of the fault-injection suite: a Kafka that scenarios may stop, the scenario, and the result table."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.chaos.framework import SEED, Chaos, ScenarioResult, kafka_with_proxied_listener, proxy_ports, table
from tests.chaos.proxy import Proxy
from tests.support.brokers import ApacheKafka

FAULTS = Path(__file__).with_name("faults.c")
_results: list[ScenarioResult] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the result table."""
    if _results:
        terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
        for row in table(_results):
            terminalreporter.write_line(row)
        lost, took = sum(result.lost for result in _results), sum(result.took for result in _results)
        terminalreporter.write_line(f"{len(_results)} scenarios, lost {lost}, {took:.0f} s")


@pytest.fixture(scope="session")
def _shared_victim(kafka_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with kafka_with_proxied_listener(kafka_libraries, tmp_path_factory.mktemp("victim")) as node:
        yield node


@pytest.fixture
def victim(_shared_victim: ApacheKafka, prefix: str) -> Iterator[ApacheKafka]:
    """Kafka that a scenario may kill, freeze and restart; running again before the next scenario."""
    yield _shared_victim
    _shared_victim.thaw()
    _shared_victim.start()
    # Each start would take longer with the partitions of all earlier scenarios.
    admin = AdminClient({"bootstrap.servers": _shared_victim.bootstrap_servers})
    names = [name for name in admin.list_topics(timeout=60).topics if name.startswith(prefix)]
    for deleted in (admin.delete_topics(names) if names else {}).values():
        deleted.result(60)


@pytest.fixture
def proxy(victim: ApacheKafka) -> Iterator[Proxy]:
    """Proxy to Kafka that can delay, cut and block connections: its port is the one that Kafka advertises."""
    with Proxy(*proxy_ports(victim)) as running:
        yield running


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Library that makes system calls fail in the daemon it is preloaded into; skips where no compiler exists."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build faults.c with")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(FAULTS)], check=True)
    return library


@pytest.fixture
def chaos(request: pytest.FixtureRequest, tmp_path: Path, prefix: str, victim: ApacheKafka) -> Iterator[Chaos]:
    """Scenario, named after its test."""
    scenario = Chaos(
        request.node.name.removeprefix("test_").replace("_", " "),
        tmp_path,
        victim.bootstrap_servers,
        prefix,
        _results,
    )
    yield scenario
    for load in scenario.loads:
        load.__exit__()
