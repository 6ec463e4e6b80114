"""Each fault says the same in the log, on the page, in `doctor` and in an alert; deploy/README.md has the table.

Every fault is provoked on a daemon of its own. The cause that /status reports must be in the log, in what the page
shows and in a finding of `doctor`, in the same words, and the alert that the table names must hold for the daemon's
metrics. The row made from it must be in the table; with FAULT_TABLE=write (`make generate-faults`) it is written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without declaring it
    AclOperation,
    AdminClient,
)

from bridge.config.sections import KafkaSettings
from bridge.contract.schemas import Contract
from tests.support.brokers import Broker
from tests.support.brokers.apache import free_port
from tests.support.brokers.guarded import PASSWORD, UNRESOLVABLE, GuardedKafka
from tests.support.cli import bridge, make_topics
from tests.support.daemon import TOKEN, Daemon, wait_for
from tests.support.journal import flip, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.long

DEPLOY = Path(__file__).parents[3] / "deploy"
README = DEPLOY / "README.md"
HEADER = "| fault | log | page, `/status` | `doctor` | cause, the same text in all three | what to do | alert |"
READY = "video.status.ready"
BODY = json.dumps({"type": READY, "asset_id": "a1", "title": "a film"}).encode()
SASL = {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "bridge"}


class Place(NamedTuple):
    """What a fault is provoked with."""

    directory: Path
    kafka: GuardedKafka
    prefix: str

    def daemon(self, bootstrap_servers: str | None = None, **settings: Any) -> Daemon:
        """Return a daemon that is not started."""
        return Daemon(self.directory, bootstrap_servers or self.kafka.node.bootstrap_servers, self.prefix, **settings)

    def delete(self, *topics: str) -> None:
        """Delete topics, and wait until the broker has forgotten them: until then it accepts records for them."""
        admin = AdminClient({"bootstrap.servers": self.kafka.node.bootstrap_servers})
        for deleted in admin.delete_topics(list(topics)).values():
            deleted.result(30)
        wait_for(lambda: not set(topics) & set(admin.list_topics(timeout=10).topics), 30)


@contextmanager
def wrong_password(place: Place) -> Iterator[Daemon]:
    """Use a wrong password."""
    with place.daemon(place.kafka.sasl, **SASL, kafka_sasl_password="not-the-password") as daemon:
        yield daemon


@contextmanager
def closed_port(place: Place) -> Iterator[Daemon]:
    """Name a port on which no process listens."""
    with place.daemon(f"127.0.0.1:{free_port()}") as daemon:
        yield daemon


@contextmanager
def unknown_host(place: Place) -> Iterator[Daemon]:
    """Name a host that does not resolve."""
    with place.daemon(f"{UNRESOLVABLE}:9092") as daemon:
        yield daemon


@contextmanager
def unknown_authority(place: Place) -> Iterator[Daemon]:
    """Trust no authority that signed Kafka's certificate."""
    with place.daemon(place.kafka.tls, kafka_security_protocol="SSL") as daemon:
        yield daemon


@contextmanager
def unresolvable_listener(place: Place) -> Iterator[Daemon]:
    """Use a bootstrap server that responds and advertises an address that does not resolve."""
    with place.daemon(place.kafka.unresolvable) as daemon:
        yield daemon


@contextmanager
def missing_topic(place: Place) -> Iterator[Daemon]:
    """Delete one topic, and let the daemon create none."""
    make_all_topics(place)
    place.delete(f"{place.prefix}{READY}")
    with place.daemon(topics_provision="verify") as daemon:
        assert daemon.post(BODY).status == 200
        yield daemon


@contextmanager
def missing_topics(place: Place) -> Iterator[Daemon]:
    """Create no topic, and let the daemon create none."""
    with place.daemon(topics_provision="verify") as daemon:
        assert daemon.post(BODY).status == 200
        yield daemon


@contextmanager
def missing_acl(place: Place) -> Iterator[Daemon]:
    """Allow the user to describe all topics, and to write to all but one."""
    make_all_topics(place)
    place.kafka.allow(place.prefix, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    for topic in Contract.load(place.prefix).topics.values():
        if topic.name != f"{place.prefix}{READY}":
            place.kafka.allow(topic.name, AclOperation.WRITE)
    settings = SASL | {"kafka_sasl_password": PASSWORD, "topics_provision": "verify"}
    with place.daemon(place.kafka.sasl, **settings) as daemon:
        assert daemon.post(BODY).status == 200
        yield daemon


@contextmanager
def no_write_access(place: Place) -> Iterator[Daemon]:
    """Allow the user to write to no topic at all: Kafka rejects the producer itself."""
    make_all_topics(place)
    place.kafka.allow(place.prefix, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    with place.daemon(place.kafka.sasl, **SASL, kafka_sasl_password=PASSWORD, topics_provision="off") as daemon:
        yield daemon


@contextmanager
def blocked_topic(place: Place) -> Iterator[Daemon]:
    """Delete a topic while the daemon runs."""
    make_all_topics(place)
    with place.daemon(topics_provision="verify") as daemon:
        assert daemon.post(BODY).status == 200
        wait_for(daemon.drained, 60)
        place.delete(f"{place.prefix}{READY}")
        assert daemon.post(BODY).status == 200
        yield daemon


@contextmanager
def unreachable_registry(place: Place) -> Iterator[Daemon]:
    """Name a registry's port on which no process listens."""
    make_all_topics(place)
    settings = {"registry_url": f"http://127.0.0.1:{free_port()}", "registry_wire_format": "confluent"}
    with place.daemon(**settings) as daemon:
        assert daemon.post(BODY).status == 200
        yield daemon


@contextmanager
def expired_tokens(place: Place) -> Iterator[Daemon]:
    """Let the only token expire while the daemon runs."""
    make_all_topics(place)
    file = place.directory / "tokens"
    file.write_text(f"{TOKEN} name=gumlet expires={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 15))}")
    with place.daemon(tokens=None, tokens_file=file) as daemon:
        yield daemon


@contextmanager
def full_disk(place: Place) -> Iterator[Daemon]:
    """Require more free space than the disk has."""
    make_all_topics(place)
    with place.daemon(journal_min_free_bytes=1 << 60) as daemon:
        assert daemon.post(BODY).status == 503
        yield daemon


@contextmanager
def full_journal(place: Place) -> Iterator[Daemon]:
    """Fill the journal to its limit while Kafka is unreachable."""
    with place.daemon(f"127.0.0.1:{free_port()}", journal_max_bytes=1 << 20) as daemon:
        while daemon.post(json.dumps({"type": READY, "title": "x" * 200_000}).encode()).status == 200:
            pass
        yield daemon


@contextmanager
def damaged_journal(place: Place) -> Iterator[Daemon]:
    """Change a byte of an acknowledged delivery on the disk while the daemon is down."""
    make_all_topics(place)
    with place.daemon(f"127.0.0.1:{free_port()}") as daemon:
        for _ in range(3):
            assert daemon.post(BODY).status == 200
        daemon.kill()
        segment = segments(place.directory / "journal")[0]
        flip(segment, segment.read_bytes().index(BODY))
        daemon.settings["kafka_bootstrap_servers"] = place.kafka.node.bootstrap_servers
        daemon.start()
        yield daemon


def make_all_topics(place: Place) -> None:
    """Create the contract's topics."""
    servers = place.kafka.node.bootstrap_servers
    asyncio.run(make_topics(Broker(servers, ""), KafkaSettings(bootstrap_servers=servers), place.prefix))


class Fault(NamedTuple):
    """A fault, and where it must be reported: component, log line, alerts."""

    name: str
    provoke: Callable[[Place], contextlib.AbstractContextManager[Daemon]]
    component: str
    log_event: str
    alerts: tuple[str, ...]
    state: str = "failing"
    expected: str = ""
    """Part of the cause, for a fault whose first cause is replaced by a worse one."""


KAFKA = ("kafka", "kafka_disconnected", ("BridgeKafkaUnreachable",))
TOPIC = (f"topic PREFIX{READY}", "topic_blocked", ("BridgeTopicBlocked",))
JOURNAL = ("journal", "health_changed", ("BridgeNotReady",))
FAULTS = [
    Fault("wrong password", wrong_password, *KAFKA),
    Fault("closed port", closed_port, *KAFKA),
    Fault("unknown host", unknown_host, *KAFKA),
    Fault("TLS verification fails", unknown_authority, *KAFKA),
    Fault("advertised listener cannot be resolved", unresolvable_listener, *KAFKA),
    Fault("missing topic", missing_topic, *TOPIC),
    Fault("all topics missing", missing_topics, "30 topics", *TOPIC[1:]),
    Fault("missing ACL: Write on a topic", missing_acl, *TOPIC),
    Fault("missing ACL: Write on all topics", no_write_access, *KAFKA),
    Fault("topic blocked while running (deleted)", blocked_topic, *TOPIC),
    Fault(
        "schema registry unreachable",
        unreachable_registry,
        "registry",
        "schema_registry_unreachable",
        ("BridgeRegistryUnreachable",),
    ),
    Fault("all tokens expired", expired_tokens, "tokens", "health_changed", ("BridgeNoValidToken",)),
    Fault("disk full", full_disk, *JOURNAL),
    Fault("journal full", full_journal, *JOURNAL),
    Fault(
        "journal damaged",
        damaged_journal,
        "journal",
        "health_changed",
        ("BridgeJournalCorrupted", "BridgeDeliveriesLost"),
        "degraded",
        "deliveries lost",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_reported_in_the_same_words_everywhere(
    fault: Fault, guarded_kafka: GuardedKafka, prefix: str, tmp_path: Path
) -> None:
    """Log, page, `doctor` and alert agree, and the table has the row."""
    component = fault.component.replace("PREFIX", prefix)
    with fault.provoke(Place(tmp_path, guarded_kafka, prefix)) as daemon:
        condition: dict[str, Any] = {}

        def reported() -> bool:
            condition.update(next((c for c in daemon.status()["health"] if c["component"] == component), {}))
            return condition.get("state") == fault.state and fault.expected in condition["cause"]

        wait_for(reported, 60, f"{component} is {fault.state}")
        cause = condition["cause"]

        def logged() -> bool:
            return any(is_same(cause, line.get("detail", "")) for line in daemon.logged(fault.log_event))

        wait_for(logged, 10, f"a line {fault.log_event} with {cause}")
        shown = next(each for each in page(daemon)["status"]["health"] if each["component"] == component)
        assert is_same(cause, shown["cause"])
        assert shown["next_step"] == condition["next_step"]
        check = doctor_check(daemon, cause)
        for alert in fault.alerts:
            wait_for(lambda alert=alert: alert_holds(daemon, alert), 30, alert)

    def general(text: str) -> str:
        for value, name in (
            (str(tmp_path), "/var/lib/bridge"),
            (str(guarded_kafka.certificate), "/etc/kafka/ca.pem"),
            (prefix, "gumlet."),
        ):
            text = text.replace(value, name)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9092", text)
        text = re.sub(r"[\d.]+ [KMGT]?i?B(?= free)", "N GiB", text)
        return re.sub(r"\b\d{6,}\b", "N", text).replace("|", "\\|")

    cells = [
        fault.name,
        f"`{fault.log_event}`",
        f"`{general(component)}` {fault.state}",
        general(check),
        general(cause),
        general(condition["next_step"]),
        ", ".join(fault.alerts),
    ]
    check_row(f"| {' | '.join(cells)} |")


def test_the_table_has_a_row_for_each_fault_and_no_others() -> None:
    """A row without a test must not stay."""
    table = README.read_text().partition(HEADER)[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert rows == [fault.name for fault in FAULTS]


def check_row(row: str) -> None:
    """Require the row in the table, or write it there."""
    lines = README.read_text().splitlines()
    if os.environ.get("FAULT_TABLE") == "write":
        name = row.split(" | ", maxsplit=1)[0] + " | "
        start = lines.index(HEADER) + 2
        end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
        rows = [line for line in lines[start:end] if not line.startswith(name)] + [row]
        order = [f"| {fault.name} | " for fault in FAULTS]
        rows.sort(key=lambda line: next((i for i, n in enumerate(order) if line.startswith(n)), len(order)))
        lines[start:end] = rows
        README.write_text("\n".join(lines) + "\n")
    assert row in lines, f"deploy/README.md lacks this row; `make generate-faults` writes it:\n{row}"


def is_same(cause: str, text: str) -> bool:
    """Return whether a text has the cause, or is its part behind the topics' names; free space may have changed."""
    cause, text = (re.sub(r"[\d.]+ [KMGT]?i?B\b", "N B", each) for each in (cause, text))
    without_names = re.sub(r" \([^()]* more\)$", "", cause)
    return cause in text or (text != "" and without_names.endswith((f" is blocked: {text}", f" are blocked: {text}")))


def page(daemon: Daemon) -> dict[str, Any]:
    """Return the first snapshot that the page gets."""
    connection = http.client.HTTPConnection(urlsplit(daemon.admin).netloc, timeout=30)
    try:
        connection.request("GET", "/events")
        response = connection.getresponse()
        while response.readline() != b"event: message\n":
            pass
        return dict(json.loads(response.readline().removeprefix(b"data: ")))
    finally:
        connection.close()


def doctor_check(daemon: Daemon, cause: str) -> str:
    """Return the finding of `doctor`, run with the daemon's settings, that has the cause; exactly one must have it."""
    settings = {name: value for name, value in daemon.settings.items() if value is not None}
    ran = asyncio.run(bridge("doctor", **settings))
    found = [line for line in ran.lines if is_same(cause, line["detail"])]
    assert len(found) == 1, (cause, ran.out)
    assert found[0]["fix"], found
    return f"`{found[0]['check']}` {found[0]['result']}"


def alert_holds(daemon: Daemon, alert: str) -> bool:
    """Return whether the daemon's metrics meet the last comparison in the alert's expression."""
    document = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    (expression,) = [rule["expr"] for group in document["groups"] for rule in group["rules"] if rule["alert"] == alert]
    metric, labels, operator, bound = re.findall(r"(bridge_\w+)(\{[^}]*\})? (==|>) (\d+)", expression)[-1]
    connection = http.client.HTTPConnection(urlsplit(daemon.admin).netloc, timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    values = [
        float(value)
        for name, given, value in re.findall(r"^(\w+)(\{.*\})? (\S+)$", text, re.MULTILINE)
        if name == metric and (not labels or labels.strip("{}") in given)
    ]
    return any(value == float(bound) if operator == "==" else value > float(bound) for value in values)
