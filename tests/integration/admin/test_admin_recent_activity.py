"""Recent activity on the admin port matches the records on Kafka."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bridge.contract.schemas import schemas_directory
from bridge.telemetry.recent_activity import MAX_ENTRIES
from tests.support.brokers import Broker
from tests.support.daemon import Daemon, wait_for
from tests.support.delivery_checker import header, read_all

EXAMPLE = schemas_directory() / "examples" / "video.status.ready" / "full.in.json"


def last_published(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the last events as the page gets them."""
    connection = HTTPConnection(urlsplit(daemon.admin).netloc, timeout=20)
    try:
        connection.request("GET", "/events")
        stream = connection.getresponse()
        lines = iter(stream.readline, b"")
        next(line for line in lines if line == b"event: message\n")
        return list(json.loads(next(lines).removeprefix(b"data: "))["recent"]["published"])
    finally:
        connection.close()


@pytest.fixture
def daemon(tmp_path: Path, broker: Broker, prefix: str) -> Any:
    """Run a daemon on each broker."""
    settings: dict[str, object] = {}
    with Daemon(tmp_path, broker.bootstrap_servers, prefix, **settings) as running:
        yield running


async def test_recent_events_have_the_offsets_of_their_records(daemon: Daemon, broker: Broker, prefix: str) -> None:
    """Partition and offset are those of the record with that id, whatever batches they went in; times are in order."""
    document = json.loads(EXAMPLE.read_bytes())
    bodies = [
        json.dumps(document | {"asset_id": f"5fd088e0a47da8246f1fb{number % 7:03}", "progress": number}).encode()
        for number in range(3 * MAX_ENTRIES)
    ]
    with ThreadPoolExecutor(3 * MAX_ENTRIES) as pool:  # at once, so that several share a batch
        assert {each.status for each in pool.map(daemon.post, bodies)} == {200}
    wait_for(daemon.drained)
    rows = last_published(daemon)
    assert len(rows) == MAX_ENTRIES
    records = await read_all(broker.bootstrap_servers, [f"{prefix}video.status.ready"])
    on_kafka = {header(each, "ce_id"): (each.topic, each.partition, each.offset) for each in records}
    assert len(on_kafka) == 3 * MAX_ENTRIES
    assert {each["id"]: (each["topic"], each["partition"], each["offset"]) for each in rows}.items() <= on_kafka.items()
    for row in rows:
        assert row["type"] == "video.status.ready"
        assert 0 <= row["acknowledge_seconds"] <= row["publish_seconds"]


async def test_a_repeated_delivery_is_published_and_counted(daemon: Daemon) -> None:
    """A duplicate is published, since it may be a second real event, and counted."""
    for body in (
        b'{"type": "a.new.type", "n": 1}',
        b'{"n": 1, "type": "a.new.type"}',
        b'{"type": "a.new.type", "n": 2}',
    ):
        assert daemon.post(body).status == 200
    wait_for(daemon.drained)
    assert daemon.metric("bridge_publish_latency_seconds_count") == 3
    assert daemon.metric("bridge_duplicate_records_total") == 1
