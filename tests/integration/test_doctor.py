"""`gumlet-bridge doctor`: what is right is said to be, and what is wrong has its fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.config.sections import KafkaSettings
from bridge.devtools.simulated_assets import WORKSPACES
from tests.support.cli import CommandResult, bridge, make_topics
from tests.support.daemon import TOKEN
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers import Broker

URL = "http://127.0.0.1:9/webhooks/gumlet"


def results(ran: CommandResult) -> dict[str, str]:
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
