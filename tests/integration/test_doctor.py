"""`gumlet-bridge doctor`: what is right is said to be, and what is wrong has its fix."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from bridge.config.sections import KafkaSettings
from bridge.devtools.simulated_assets import WORKSPACES
from tests.support.cli import Ran, bridge, make_topics
from tests.support.daemon import BRIDGE, TOKEN, Daemon, environment, wait_for
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers import Broker

URL = "http://127.0.0.1:9/webhooks/gumlet"


def results(ran: Ran) -> dict[str, str]:
    """Return each check's result by its first word; of several the worst."""
    found: dict[str, str] = {}
    for line in ran.lines:
        name = line["check"].partition(" ")[0]
        if found.get(name) != "failed":
            found[name] = line["result"]
    return found


async def test_all_is_well_and_then_not(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """A bridge that is set up right passes; another token and failed deliveries fail, each with its fix."""
    await make_topics(broker, KafkaSettings(bootstrap_servers=broker.bootstrap_servers), prefix)
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        settings |= {
            "kafka_bootstrap_servers": broker.bootstrap_servers,
            "topics_prefix": prefix,
            "topics_partitions": 2,
            "tokens": TOKEN,
            "journal_dir": tmp_path,
            "journal_max_bytes": 1 << 20,
            "journal_min_free_bytes": 0,
        }
        sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        assert (await bridge("webhooks", "create", "--url", URL, *sources, "--yes", **settings)).code == 0
        well = await bridge("doctor", **settings)
        assert well.code == int(broker.embedded), well.out + well.err
        assert results(well) == {
            "configuration": "ok",
            "schemas": "ok",
            "journal": "ok",
            "kafka": "ok",
            "topics": "failed" if broker.embedded else "ok",  # its topics are made by their first use
            "clock": "ok",
            "webhook": "ok",
            "deliveries": "ok",
        }
        await simulated.run_assets(1)
        ill = await bridge("doctor", **(settings | {"tokens": "another"}))
        assert ill.code == 1
        assert (results(ill)["webhook"], results(ill)["deliveries"]) == ("failed", "failed")
        fixes = " ".join(line["fix"] for line in ill.lines)
        assert "gumlet-bridge webhooks update" in fixes
        assert "gumlet-bridge reconcile" in fixes
        assert TOKEN not in ill.out


async def test_nothing_is_right(tmp_path: Path) -> None:
    """Without Kafka, without an API key, without a place for the journal: each is a finding, and none hides another."""
    blocked = tmp_path / "a-file"
    blocked.touch()
    ran = await bridge("doctor", kafka_bootstrap_servers="127.0.0.1:1", tokens=TOKEN, journal_dir=blocked / "journal")
    assert ran.code == 1
    found = results(ran)
    assert (found["journal"], found["kafka"], found["gumlet"]) == ("failed", "failed", "not checked")
    assert all(line["fix"] for line in ran.lines if line["result"] != "ok")
    tokenless = await bridge("doctor")
    assert results(tokenless) == {"configuration": "failed"}


def test_doctor_reports_the_conditions_of_the_running_daemon(tmp_path: Path) -> None:
    """Cause and next step are the same words as in /status; without a daemon the check says that it could not run."""
    with Daemon(tmp_path, "127.0.0.1:9") as daemon:
        wait_for(lambda: daemon.status()["state"] == "failing", what="the failing state")
        daemon.post(b"{}", token="wrong")
        wait_for(lambda: daemon.status()["last_hour"]["rejections"] == {"invalid_token": 1}, what="the sample")
        rows = daemon_rows(daemon)
        (kafka,) = (each for each in daemon.status()["health"] if each["component"] == "kafka")
        assert rows["daemon: kafka"] == ("failed", kafka["cause"], kafka["next_step"])
        assert "1 invalid_token" in rows["daemon"][1]
        daemon.stop()
        assert daemon_rows(daemon)["daemon"][0] == "not checked"


def daemon_rows(daemon: Daemon) -> dict[str, tuple[str, str, str]]:
    """Return result, detail and fix of the doctor's checks of a daemon, by check."""
    done = subprocess.run(
        [*BRIDGE, "doctor", "--json"],
        cwd=daemon.directory,
        env=environment(**daemon.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["check"]: (row["result"], row["detail"], row["fix"]) for row in rows if "daemon" in row["check"]}
