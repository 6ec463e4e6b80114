"""Schema drift end to end: a webhook with an unknown field, and the output of the daemon and the command."""

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


def test_a_running_daemon_reports_schema_drift(embedded_broker: Broker, prefix: str, tmp_path: Path) -> None:
    """The event is published; the metric, the log and the command name the field, not its value."""
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
        # Named twice, a daemon counts as two replicas that received the same.
        result = CliRunner().invoke(app, ["drift", "--admin", daemon.admin, "--admin", daemon.admin])
        assert result.exit_code == 1
        settings = {"BRIDGE_ADMIN_LISTEN": daemon.admin.removeprefix("http://")}
        local = CliRunner(env=settings).invoke(app, ["drift"])
        assert '"/views"' in local.output, "without --admin it asks the daemon of the settings"
        (entry,) = [orjson.loads(line) for line in result.output.splitlines()]
        assert (entry["kind"], entry["path"], entry["deliveries"]) == ("new_field", "/views", 4)
        assert entry["json_types"] == ["string"]
        assert "s3cret" not in result.output + daemon.log()
        daemon.stop()
    result = CliRunner().invoke(app, ["drift", "--admin", daemon.admin])
    assert isinstance(result.exception, BridgeError)
    assert "does not respond" in str(result.exception)
