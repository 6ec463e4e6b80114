"""`gumlet-bridge journal` as its users run it: with a running daemon, and on a volume without a daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.config.sections import KafkaSettings
from bridge.event import Delivery, canonical, content_id
from tests.support.brokers import Broker
from tests.support.cli import bridge, make_topics
from tests.support.daemon import Daemon
from tests.support.delivery_checker import header, read_all
from tests.support.journal import flip, park, segments

BROKEN, BINARY = b'{"type":', b"\xff\xfe"
NOWHERE = "127.0.0.1:1"
RECEIVED_MS = int(time.time() * 1000) - 3_600_000


def ready(number: int) -> dict[str, Any]:
    """Return a body of Gumlet's."""
    return {"type": "video.status.ready", "asset_id": f"{number:024x}", "status": "ready"}


BODIES = [*(orjson.dumps(ready(number)) for number in range(20)), BROKEN, BINARY]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return the journal of a daemon that crashed while Kafka was unavailable."""
    with Daemon(tmp_path, NOWHERE, topics_provision="off") as daemon:
        assert {daemon.post(body, "/webhooks/gumlet/films").status for body in BODIES} == {200}
    return tmp_path / "journal"


async def test_beside_a_running_daemon(tmp_path: Path) -> None:
    """List, show, export and verify read the pending deliveries; drain changes nothing and exits with 75."""
    with Daemon(tmp_path, NOWHERE, topics_provision="off") as daemon:
        for body in BODIES:
            daemon.post(body, "/webhooks/gumlet/films")
        where = ("--dir", str(tmp_path / "journal"))
        listed = await bridge("journal", "list", *where)
        assert listed.code == 0, listed.err
        assert [line["number"] for line in listed.lines] == [str(number) for number in range(1, 23)]
        assert all("body" not in line for line in listed.lines)
        third = listed.lines[2]
        assert third["id"] == content_id("films", canonical(ready(2)))
        assert third["topic"] == "gumlet.video.status.ready"

        for name in (third["id"], "3"):
            shown = await bridge("journal", "show", name, *where)
            assert orjson.loads(shown.out)["body"] == ready(2), shown.err
        missing = await bridge("journal", "show", "nothing", *where)
        assert missing.code == 1
        assert "gumlet-bridge journal list" in missing.err

        exported = await bridge("journal", "list", "--with-body", *where, "-o", str(tmp_path / "out.jsonl"))
        assert exported.code == 0, exported.err
        lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
        assert [line.get("body") for line in lines] == [*map(ready, range(20)), BROKEN.decode(), None]
        assert lines[-1]["body_base64"] == "//4="
        assert {"received_at", "source", "id", "topic"} <= lines[0].keys()

        verified = await bridge("journal", "verify", *where)
        assert verified.code == 0
        assert "Checked 1 segments" in verified.err
        assert "22 deliveries are pending (0 parked), 0 places are damaged" in verified.err
        held = await bridge("journal", "drain", *where)
        assert held.code == 75
        assert f"process {daemon.process and daemon.process.pid}" in held.err
        assert daemon.post(BODIES[0]).status == 200
        assert daemon.status()["journal"]["deliveries"] == len(BODIES) + 1


async def test_filters(journal: Path) -> None:
    """Time, type, asset and reason choose what they say, with and without bodies."""
    everything = (await bridge("journal", "list", "--dir", str(journal))).lines
    for arguments, expected in (
        (("--type", "video.status.ready"), everything[:20]),
        (("--type", "video.status.errored"), []),
        (("--asset", ready(3)["asset_id"]), everything[3:4]),
        (("--reason", "invalid_json"), everything[20:]),
        (("--until", "1h"), []),
        (("--since", "1h"), everything),
        (("--since", everything[21]["received_at"], "--reason", "invalid_json"), everything[21:]),
    ):
        for command in (["list"], ["list", "--with-body"]):
            ran = await bridge("journal", *command, *arguments, "--dir", str(journal))
            assert [line["number"] for line in ran.lines] == [line["number"] for line in expected], arguments


async def test_verify_names_damage_and_its_cost(journal: Path) -> None:
    """A damaged frame is named, with its loss and its copy, and ends verify and list with 1; the others are listed."""
    (segment,) = segments(journal)
    flip(segment, segment.read_bytes().index(orjson.dumps(ready(4))))
    verified = await bridge("journal", "verify", "--dir", str(journal))
    assert "Fix: check the disk." in verified.err
    assert verified.code == 1
    (line,) = verified.lines
    assert (line["segment"], line["lost"], line["first_lost"], line["copy"]) == (str(segment), 1, 5, None)
    assert "1 places are damaged, 1 deliveries are lost" in verified.err
    listed = await bridge("journal", "list", "--dir", str(journal))
    assert listed.code == 1
    assert "1 deliveries lost from number 5 on" in listed.err
    assert [each["number"] for each in listed.lines] == [str(number) for number in range(1, 23) if number != 5]


async def test_drain(broker: Broker, prefix: str, journal: Path) -> None:
    """Pending and parked deliveries are published in order, as the daemon would publish them; the journal is empty."""
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    await make_topics(broker, kafka, prefix)
    topic, dead_letter = f"{prefix}video.status.ready", f"{prefix}dead-letter"
    park(journal, topic, [Delivery(RECEIVED_MS, "films", orjson.dumps(ready(99)))])
    where = ("--dir", str(journal))
    settings: dict[str, object] = {
        "kafka_bootstrap_servers": broker.bootstrap_servers, "topics_prefix": prefix, "topics_provision": "off",
    }  # fmt: skip
    expected = [{"topic": dead_letter, "deliveries": 2}, {"topic": topic, "deliveries": 21}]

    rehearsed = await bridge("journal", "drain", "--dry-run", *where, **settings)
    assert (rehearsed.code, rehearsed.lines) == (0, expected), rehearsed.err
    assert await read_all(broker.bootstrap_servers, [topic, dead_letter]) == []

    drained = await bridge("journal", "drain", *where, **settings)

    assert (drained.code, drained.lines) == (0, expected), drained.err
    records = await read_all(broker.bootstrap_servers, [topic, dead_letter])
    ids = {header(record, "ce_id") for record in records}
    assert len(records) == len(BODIES) + 1
    assert ids >= {content_id("films", canonical(ready(number))) for number in (*range(20), 99)}
    (parked,) = [record for record in records if record.key == ready(99)["asset_id"].encode()]
    assert parked.timestamp == RECEIVED_MS
    assert (await bridge("journal", "list", *where, **settings)).lines == []
    again = await bridge("journal", "drain", *where, **settings)
    assert (again.code, again.lines) == (0, []), again.err


async def test_drain_without_kafka_loses_nothing(journal: Path) -> None:
    """With Kafka away it gives up after its time-out, says so, and all is still there."""
    where = ("--dir", str(journal))
    ran = await bridge("journal", "drain", "--timeout", "1", *where, kafka_bootstrap_servers=NOWHERE)
    assert ran.code == 1
    assert f"{len(BODIES)} deliveries are still in the journal" in ran.err
    assert "BRIDGE_KAFKA_BOOTSTRAP_SERVERS" in ran.err
    assert len((await bridge("journal", "list", *where)).lines) == len(BODIES)


async def test_drain_publishes_around_damage_and_exits_with_1(
    journal: Path, embedded_broker: Broker, prefix: str
) -> None:
    """A drain that met damage is not a success: it names the quarantine, and publishes everything else."""
    await make_topics(embedded_broker, KafkaSettings(bootstrap_servers=embedded_broker.bootstrap_servers), prefix)
    (segment,) = segments(journal)
    flip(segment, segment.read_bytes().index(orjson.dumps(ready(4))))
    ran = await bridge(
        "journal", "drain", "--dir", str(journal), topics_provision="off", topics_prefix=prefix,
        kafka_bootstrap_servers=embedded_broker.bootstrap_servers,
    )  # fmt: skip
    assert ran.code == 1
    assert str(journal / "quarantine") in ran.err
    assert sum(line["deliveries"] for line in ran.lines) == len(BODIES) - 1


async def test_no_journal_is_told(tmp_path: Path) -> None:
    """Every command names the directory that has none, and what to set; none makes one."""
    for command in (("list",), ("show", "1"), ("verify",), ("drain",), ("drain", "--dry-run")):
        ran = await bridge("journal", *command, "--dir", str(tmp_path / "nothing"))
        assert ran.code == 1, command
        assert "BRIDGE_JOURNAL_DIR" in ran.err, command
    assert list(tmp_path.iterdir()) == []
