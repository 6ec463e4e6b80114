"""`gumlet-bridge doctor`: every check has a result, and every fault a cause and a fix."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]  # re-exported without declaring it

from bridge.config.sections import KafkaSettings
from bridge.devtools.simulated_assets import WORKSPACES
from tests.support.brokers import Broker
from tests.support.brokers.apache import free_port
from tests.support.brokers.guarded import PASSWORD
from tests.support.cli import CommandResult, bridge, make_topics
from tests.support.daemon import TOKEN, Daemon, wait_for
from tests.support.mock_gumlet import gumlet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers.guarded import GuardedKafka

URL = "http://127.0.0.1:9/webhooks/gumlet"


def results(ran: CommandResult) -> dict[str, str]:
    """Return each check's result by its first word; of several the worst."""
    found: dict[str, str] = {}
    for line in ran.lines:
        name = line["check"].partition(" ")[0]
        if found.get(name) != "failed":
            found[name] = line["result"]
    return found


async def test_a_correct_installation_passes_and_each_fault_has_a_fix(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A correct setup passes; another token and failed deliveries fail, each with its fix."""
    await make_topics(broker, KafkaSettings(bootstrap_servers=broker.bootstrap_servers), prefix)
    async with gumlet(retry_interval=0.001) as (simulated, settings):
        settings |= {
            "kafka_bootstrap_servers": broker.bootstrap_servers,
            "topics_prefix": prefix,
            "topics_partitions": 2,
            "tokens": TOKEN,
            "admin_listen": f"127.0.0.1:{free_port()}",
            "journal_dir": tmp_path,
            "journal_max_bytes": 1 << 20,
            "journal_min_free_bytes": 0,
        }
        sources = [part for workspace in WORKSPACES for part in ("--source", workspace)]
        assert (await bridge("webhooks", "create", "--url", URL, *sources, "--yes", **settings)).code == 0
        correct = await bridge("doctor", **settings)
        assert correct.code == 0, correct.out + correct.err
        assert results(correct) == {
            "configuration": "ok",
            "schemas": "ok",
            "journal": "ok",
            "tokens": "ok",
            "kafka": "ok",
            "topics": "ok",
            "access": "not checked" if broker.embedded else "ok",  # the embedded broker reports no rights
            "daemon": "not checked",
            "clock": "ok",
            "webhook": "ok",
            "deliveries": "ok",
        }
        await simulated.run_assets(1)
        faulty = await bridge("doctor", **(settings | {"tokens": "another"}))
        assert faulty.code == 1
        assert (results(faulty)["webhook"], results(faulty)["deliveries"]) == ("failed", "failed")
        fixes = " ".join(line["fix"] for line in faulty.lines)
        assert "gumlet-bridge webhooks update" in fixes
        assert "gumlet-bridge reconcile" in fixes
        assert TOKEN not in faulty.out


async def test_every_failed_check_is_shown_with_its_fix(tmp_path: Path) -> None:
    """Without Kafka, an API key and a usable journal directory, each is a finding and none hides another."""
    blocked = tmp_path / "a-file"
    blocked.touch()
    address = f"127.0.0.1:{free_port()}"
    ran = await bridge("doctor", kafka_bootstrap_servers=address, tokens=TOKEN, journal_dir=blocked / "journal")
    assert ran.code == 1
    found = results(ran)
    assert (found["journal"], found["kafka"], found["gumlet"]) == ("failed", "failed", "not checked")
    (kafka,) = [line for line in ran.lines if line["check"] == "kafka"]
    assert f"{address} refused the connection" in kafka["detail"]
    assert all(line["fix"] for line in ran.lines if line["result"] != "ok")
    tokenless = await bridge("doctor")
    assert results(tokenless) == {"configuration": "failed"}


async def test_the_rights_of_the_daemons_user_are_checked(
    guarded_kafka: GuardedKafka, prefix: str, tmp_path: Path
) -> None:
    """A user that may not write to one topic gets a failed check that names the topic and the operation."""
    administrator = KafkaSettings(bootstrap_servers=guarded_kafka.node.bootstrap_servers)
    await make_topics(Broker(administrator.bootstrap_servers, ""), administrator, prefix)
    settings: dict[str, object] = {
        "kafka_bootstrap_servers": guarded_kafka.sasl,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "bridge",
        "kafka_sasl_password": PASSWORD,
        "topics_prefix": prefix,
        "topics_partitions": 2,
        "tokens": TOKEN,
        "journal_dir": tmp_path,
        "journal_max_bytes": 1 << 20,
        "admin_listen": f"127.0.0.1:{free_port()}",
    }
    guarded_kafka.allow(prefix, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    guarded_kafka.allow(f"{prefix}video.", AclOperation.WRITE)
    denied = await bridge("doctor", **settings)
    assert denied.code == 1
    failed = {line["check"]: line for line in denied.lines if line["result"] == "failed"}
    (rights,) = [line for check, line in failed.items() if check.endswith(" topics")]
    assert f"{prefix}dead-letter" in rights["detail"]
    assert f"{prefix}video." not in rights["detail"]
    assert "--operation Write" in rights["fix"]
    guarded_kafka.allow(prefix, AclOperation.WRITE)
    allowed = await bridge("doctor", **settings)
    assert allowed.code == 0, allowed.out
    assert results(allowed)["access"] == "ok"
    wrong = await bridge("doctor", **(settings | {"kafka_sasl_password": "not-the-password"}))
    (kafka,) = [line for line in wrong.lines if line["check"] == "kafka"]
    assert "wrong username or password (SASL PLAIN)" in kafka["detail"]
    assert "not-the-password" not in wrong.out + wrong.err


async def test_the_running_daemon_is_asked_for_its_problems(
    embedded_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Rejections of the last hour and an expired token are findings; without a daemon the check says so."""
    settings: dict[str, object] = {
        "admin_listen": f"127.0.0.1:{free_port()}",
        "tokens": None,
        "tokens_file": tmp_path / "tokens",
        "topics_provision": "create",
    }
    (tmp_path / "tokens").write_text(f"{TOKEN}\nold-token name=old expires=2020-01-01T00:00:00Z\n")
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, **settings) as daemon:
        assert daemon.post(b"{}", token="wrong").status == 401
        wait_for(lambda: daemon.status()["last_hour"]["rejections"], what="the sample of the rejections")
        asked = {
            "kafka_bootstrap_servers": embedded_broker.bootstrap_servers,
            "topics_prefix": prefix,
            "journal_dir": tmp_path / "journal",
            **settings,
        }
        ran = await bridge("doctor", **asked)
        lines = {line["check"]: line for line in ran.lines}
        assert "invalid_token" in lines["daemon rejections"]["detail"]
        assert "has expired" in lines["tokens old"]["detail"]
        assert TOKEN not in ran.out
    stopped = await bridge("doctor", **asked)
    (line,) = [line for line in stopped.lines if line["check"] == "daemon"]
    assert line["result"] == "not checked"
    assert "BRIDGE_ADMIN_LISTEN" in line["fix"]


async def test_config_check_warns_of_a_token_that_expires_soon(tmp_path: Path) -> None:
    """The check that precedes a start names the token and the next step; the configuration remains usable."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3 * 86400 + 60))
    (tmp_path / "tokens").write_text(f"{TOKEN} name=gumlet expires={end}")
    ran = await bridge("config", "check", tokens=None, tokens_file=tmp_path / "tokens")
    assert ran.code == 0
    assert "the token gumlet expires in 3 days. Fix: add the next token to BRIDGE_TOKENS_FILE" in ran.err
    assert "Configuration OK." in ran.err
