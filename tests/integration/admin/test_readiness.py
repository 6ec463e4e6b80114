"""Readiness and the admin port: a replica is ready exactly while it accepts deliveries."""

from __future__ import annotations

from pathlib import Path

from tests.support.brokers import Broker
from tests.support.daemon import Daemon, request, wait_for

NOWHERE = "127.0.0.1:9"


def test_ready_without_kafka_with_ack_journal(tmp_path: Path) -> None:
    """A replica stays ready while Kafka is unreachable: deliveries are kept on disk."""
    with Daemon(tmp_path, NOWHERE) as daemon:
        assert request(daemon.admin, "GET", "/readyz").status == 200


def test_not_ready_without_kafka_with_ack_kafka(tmp_path: Path) -> None:
    """With ack = kafka, a replica that cannot reach Kafka rejects deliveries and reports the reason."""
    with Daemon(tmp_path, NOWHERE, ack="kafka") as daemon:
        answer = request(daemon.admin, "GET", "/readyz")
        assert answer.status == 503
        assert "kafka_unreachable" in answer.body


def test_ready_with_kafka_with_ack_kafka(tmp_path: Path, embedded_broker: Broker, prefix: str) -> None:
    """With ack = kafka, a replica becomes ready once it has reached Kafka."""
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, ack="kafka", topics_provision="create") as daemon:
        wait_for(lambda: request(daemon.admin, "GET", "/readyz").status == 200, what="ready")


def test_readiness_lists_what_does_not_work_with_the_next_step(tmp_path: Path) -> None:
    """A ready replica can have problems: /readyz, /status and the page say the same about an unreachable Kafka."""
    with Daemon(tmp_path, NOWHERE) as daemon:
        wait_for(lambda: daemon.status()["state"] == "failing", what="the failing state")
        answer = request(daemon.admin, "GET", "/readyz")
        (kafka,) = (each for each in daemon.status()["health"] if each["component"] == "kafka")
        assert kafka["state"] == "failing"
        assert NOWHERE in kafka["cause"]
        assert answer.status == 200
        assert answer.body.splitlines()[0] == "ready"
        assert f"kafka: failing: {kafka['cause']}" in answer.body
        assert "Fix: " in answer.body


def test_admin_port_rejects_host_names_that_it_does_not_know(tmp_path: Path) -> None:
    """A page of another site cannot read the status through a DNS name that points here."""
    with Daemon(tmp_path, NOWHERE, admin_allowed_hosts="bridge,*.internal") as daemon:
        for path in ("/", "/status", "/metrics", "/events", "/readyz", "/absent"):
            answer = request(daemon.admin, "GET", path, headers={"host": "attacker.example:8081"})
            assert (answer.status, "BRIDGE_ADMIN_ALLOWED_HOSTS" in answer.body) == (421, True)
        for host in ("localhost", "10.0.0.7:8081", "bridge:8081", "a.internal"):
            assert request(daemon.admin, "GET", "/status", headers={"host": host}).status == 200
