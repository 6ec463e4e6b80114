"""Drift from end to end: a webhook with something new, and what the daemon and the command say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from typer.testing import CliRunner

from bridge.cli.schemas import app
from bridge.errors import BridgeError
from tests.support.daemon import Daemon, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers import Broker


def test_a_running_daemon_tells_what_is_new(embedded_broker: Broker, prefix: str, tmp_path: Path) -> None:
    """The event is published all the same; the metric, the log and the command name the field, not its value."""
    sample = 'bridge_schema_drift_total{event_type="video.status.ready",kind="new_field",path="/views"}'
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, topics_provision="create") as daemon:
        nothing = CliRunner().invoke(app, ["drift", "--admin", daemon.admin])
        assert (nothing.exit_code, nothing.output) == (0, "")
        for _ in range(2):
            daemon.post(b'{"type":"video.status.ready","asset_id":"a1","views":"s3cret"}')
        wait_for(lambda: daemon.metric(sample) == 2, what="the metric")
        wait_for(daemon.drained, what="the events on Kafka")
        (line,) = daemon.logged("schema_drift")
        assert (line["type"], line["path"]) == ("video.status.ready", "/views")
        # Named twice, a daemon stands for two replicas that saw the same.
        told = CliRunner().invoke(app, ["drift", "--admin", daemon.admin, "--admin", daemon.admin])
        assert told.exit_code == 1
        (seen,) = [orjson.loads(line) for line in told.output.splitlines()]
        assert (seen["kind"], seen["path"], seen["deliveries"]) == ("new_field", "/views", 4)
        assert "properties of the record" in seen["change"][0]
        assert "s3cret" not in told.output + daemon.log()
        daemon.stop()
    result = CliRunner().invoke(app, ["drift", "--admin", daemon.admin])
    assert isinstance(result.exception, BridgeError)
    assert "does not answer" in str(result.exception)
