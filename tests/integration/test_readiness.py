"""When a replica says that it is ready: when the promise of its 200 can be kept, and only then."""

from __future__ import annotations

from pathlib import Path

from tests.support.brokers import Broker
from tests.support.daemon import Daemon, request, wait_for

NOWHERE = "127.0.0.1:9"


def test_ready_without_kafka_when_the_journal_keeps_the_promise(tmp_path: Path) -> None:
    """A Kafka that is away takes no replica out of service: deliveries wait on disk."""
    with Daemon(tmp_path, NOWHERE) as daemon:
        assert request(daemon.admin, "GET", "/readyz").status == 200


def test_not_ready_without_kafka_when_kafka_keeps_the_promise(tmp_path: Path) -> None:
    """With ack = kafka a replica that cannot reach Kafka takes no deliveries, and says why."""
    with Daemon(tmp_path, NOWHERE, ack="kafka") as daemon:
        answer = request(daemon.admin, "GET", "/readyz")
        assert answer.status == 503
        assert "kafka_unreachable" in answer.body


def test_ready_with_kafka_when_kafka_keeps_the_promise(tmp_path: Path, embedded_broker: Broker, prefix: str) -> None:
    """With ack = kafka a replica becomes ready once Kafka answers."""
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, ack="kafka", topics_provision="create") as daemon:
        wait_for(lambda: request(daemon.admin, "GET", "/readyz").status == 200, what="ready")
