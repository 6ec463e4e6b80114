"""deploy/kafka-acls.sh, run literally, grants on a real Kafka what each user needs, and nothing more.

With its ACLs everything works; without one of them, the message names the ACL that is missing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without declaring it
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from bridge.contract.schemas import Contract
from tests.support.brokers.apache import free_port, java
from tests.support.brokers.guarded import PASSWORD, GuardedKafka
from tests.support.cli import CommandResult, bridge
from tests.support.daemon import TOKEN, Daemon, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
PREFIX = "gumlet."
READY = "video.status.ready"


def settings_of(kafka: GuardedKafka, user: str, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a user of the script."""
    return {
        "kafka_bootstrap_servers": kafka.sasl,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": user,
        "kafka_sasl_password": PASSWORD,
        "topics_prefix": PREFIX,
        "topics_provision": "verify",
        "topics_replication_factor": 1,
        "tokens": TOKEN,
        "journal_dir": tmp_path / "journal",
        "journal_min_free_bytes": 0,
        "journal_max_bytes": 1 << 24,
        "max_body_bytes": 100_000,
        "admin_listen": f"127.0.0.1:{free_port()}",
    }


@pytest.fixture
def kafka(guarded_kafka: GuardedKafka, kafka_libraries: Path, tmp_path: Path) -> Iterator[GuardedKafka]:
    """Run the script as it is, with Kafka's own tool; delete the topics at the end."""
    tool = tmp_path / "bin" / "kafka-acls.sh"
    tool.parent.mkdir()
    command = f"{java()[0]} -cp '{kafka_libraries}/*' org.apache.kafka.tools.AclCommand"
    tool.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "admin.properties").write_text("security.protocol=PLAINTEXT\n")
    environment = os.environ | {
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "BOOTSTRAP": guarded_kafka.node.bootstrap_servers,
        "COMMAND_CONFIG": str(tmp_path / "admin.properties"),
    }
    script = ["sh", str(ROOT / "deploy" / "kafka-acls.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield guarded_kafka
    admin = admin_of(guarded_kafka)
    if topics := [name for name in admin.list_topics(timeout=30).topics if name.startswith(PREFIX)]:
        for deleted in admin.delete_topics(topics).values():
            deleted.result(30)


def admin_of(kafka: GuardedKafka) -> AdminClient:
    """Return a client of the administrator."""
    return AdminClient({"bootstrap.servers": kafka.node.bootstrap_servers})


def take_away(kafka: GuardedKafka, user: str, operation: AclOperation) -> None:
    """Delete the user's ACLs of one operation."""
    admin = admin_of(kafka)
    place = (ResourceType.TOPIC, None, ResourcePatternType.ANY)
    wanted = AclBindingFilter(*place, f"User:{user}", None, operation, AclPermissionType.ANY)  # type: ignore[arg-type]
    for deleted in admin.delete_acls([wanted]).values():
        assert len(deleted.result(30)) == 1
    wait_for(lambda: not admin.describe_acls(wanted).result(30), what="the end of the ACL")


def bodies() -> list[bytes]:
    """Return a delivery for each topic of the contract: the examples, an unknown type, and no JSON."""
    examples = ROOT / "schemas" / "examples"
    found = [min(directory.glob("*.in.json")).read_bytes() for directory in sorted(examples.iterdir())
             if any(directory.glob("*.in.json"))]  # fmt: skip
    return [*found, b'{"type": "unheard.of"}', b"no json"]


async def run(kafka: GuardedKafka, user: str, tmp_path: Path, *command: str) -> CommandResult:
    """Run a command as a user."""
    return await bridge(*command, **settings_of(kafka, user, tmp_path))


async def test_everything_works_with_the_acls_of_the_script_and_no_others(kafka: GuardedKafka, tmp_path: Path) -> None:
    """One user creates and changes topics, one publishes to all of them, one reads and replays."""
    applied = await run(kafka, "bridge-topics", tmp_path, "topics", "apply", "--yes")
    assert applied.code == 0, applied.out + applied.err
    admin = admin_of(kafka)
    topics = {topic.name for topic in Contract.load(PREFIX).topics.values()}
    assert topics <= admin.list_topics(timeout=30).topics.keys()
    changed = settings_of(kafka, "bridge-topics", tmp_path) | {"topics_partitions": 8}
    grown = await bridge("topics", "apply", "--yes", "--add-partitions", "--update-config", **changed)
    assert grown.code == 0, grown.out + grown.err
    checked = await bridge("topics", "check", **(changed | {"kafka_sasl_username": "bridge"}))
    assert checked.code == 0, checked.out + checked.err

    settings = settings_of(kafka, "bridge", tmp_path) | {"topics_partitions": 8}
    del settings["kafka_bootstrap_servers"], settings["topics_prefix"]
    with Daemon(tmp_path, kafka.sasl, PREFIX, **settings) as daemon:
        for body in bodies():
            assert daemon.post(body).status == 200
        wait_for(daemon.drained, 60, "all events on Kafka")
        assert not [each for each in daemon.status()["health"] if each["component"].startswith("topic ")]
        published = {
            topic for topic in topics
            if daemon.metric(f'bridge_kafka_records_published_total{{topic="{topic}"}}') > 0
        }  # fmt: skip
        assert published == topics
        doctor = await bridge("doctor", **(settings_of(kafka, "bridge", tmp_path) | changed_for(daemon)))
        assert [line for line in doctor.lines if line["result"] == "failed"] == []

    letters = await run(kafka, "bridge-operator", tmp_path, "dead-letter", "list")
    assert letters.code == 0, letters.err
    assert "invalid_json" in {line["reason"] for line in letters.lines}
    events = await run(kafka, "bridge-operator", tmp_path, "tail", "--since", "1h", "--no-follow")
    assert events.code == 0, events.err
    publish_dead_letter(kafka)
    replayed = await run(kafka, "bridge-operator", tmp_path, "dead-letter", "replay", "--reason", "schema_violation")
    assert replayed.code == 0, replayed.err
    assert "1 published" in replayed.err


def publish_dead_letter(kafka: GuardedKafka) -> None:
    """Publish a dead letter whose delivery is valid for the current version."""
    body = json.dumps({"type": READY, "asset_id": "a1"}).encode()
    value = {"source": "gumlet", "reason": "schema_violation", "body_base64": base64.b64encode(body).decode()}
    producer = Producer({"bootstrap.servers": kafka.node.bootstrap_servers})
    producer.produce(f"{PREFIX}dead-letter", json.dumps(value).encode(), headers={"ce_id": "1"})
    assert producer.flush(30) == 0


def changed_for(daemon: Daemon) -> dict[str, Any]:
    """Return the settings of `doctor` that lead to the daemon."""
    return {"admin_listen": daemon.settings["admin_listen"], "topics_partitions": 8}


async def read_first(kafka: GuardedKafka, group: str) -> str:
    """Return the topic of the first record that `bridge-consumer` reads by a pattern, as the schema reference says."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="bridge-consumer",
        sasl_plain_password=PASSWORD,
        group_id=group,
        auto_offset_reset="earliest",
    )
    consumer.subscribe(pattern=r"^gumlet\..*")
    try:
        async with asyncio.timeout(60):
            await consumer.start()
            record = await consumer.getone()
            await consumer.commit()
    finally:
        await consumer.stop()
    return str(record.topic)


async def test_consumer_may_read_in_groups_of_its_prefix_only(kafka: GuardedKafka, tmp_path: Path) -> None:
    """It subscribes to every topic by a pattern and commits; another group is not authorized."""
    assert (await run(kafka, "bridge-topics", tmp_path, "topics", "apply", "--yes")).code == 0
    publish_dead_letter(kafka)
    assert await read_first(kafka, "gumlet-assets") == f"{PREFIX}dead-letter"
    with pytest.raises(GroupAuthorizationFailedError):
        await read_first(kafka, "assets")


CONSUMER_OPERATIONS = 2
"""Operations of `bridge-consumer`: Read on topics, and Read on groups."""
MISSING = [
    ("bridge", "WRITE", ("doctor",), "--operation Write"),
    ("bridge", "DESCRIBE_CONFIGS", ("topics", "check"), "DescribeConfigs"),
    ("bridge-operator", "READ", ("dead-letter", "list"), "--operation Read"),
    ("bridge-operator", "WRITE", ("dead-letter", "replay"), "--operation Write"),
    ("bridge-operator", "DESCRIBE_CONFIGS", ("topics", "check"), "DescribeConfigs"),
    ("bridge-topics", "CREATE", ("topics", "apply", "--yes"), "--operation Create"),
    ("bridge-topics", "ALTER", ("topics", "apply", "--yes", "--add-partitions"), "may not describe"),
    ("bridge-topics", "ALTER_CONFIGS", ("topics", "apply", "--yes", "--update-config"), "DescribeConfigs"),
]
"""User, the operation that is taken away, a command that then fails, and what its message names.

Alter includes Describe, and AlterConfigs DescribeConfigs: without them Kafka does not show what to change.
"""


async def test_without_one_acl_the_message_names_it(kafka: GuardedKafka, tmp_path: Path) -> None:
    """Each operation of the script is needed: the command fails without it, with a message that names it."""
    script = (ROOT / "deploy" / "kafka-acls.sh").read_text()
    assert script.count("--operation") == len(MISSING) + CONSUMER_OPERATIONS
    assert (await run(kafka, "bridge-topics", tmp_path, "topics", "apply", "--yes")).code == 0
    publish_dead_letter(kafka)
    admin = admin_of(kafka)
    for user, operation, command, named in MISSING:
        take_away(kafka, user, getattr(AclOperation, operation))
        wanted = settings_of(kafka, user, tmp_path)
        if "apply" in command:  # something to do
            wanted["topics_partitions"] = 9
            if operation == "CREATE":
                for deleted in admin.delete_topics([f"{PREFIX}{READY}"]).values():
                    deleted.result(30)
        ran = await bridge(*command, **wanted)
        assert ran.code != 0, (user, operation, ran.out)
        assert named in ran.out + ran.err, (user, operation, ran.out + ran.err)
        kafka.allow(PREFIX, getattr(AclOperation, operation), user=user)
