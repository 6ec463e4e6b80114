"""Three nodes, three copies, two of which must be in sync: a leader is lost, then the quorum, then all is healed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.framework import Chaos
from tests.support.brokers import ApacheKafka


@pytest.fixture
def cluster(kafka_libraries: Path, tmp_path: Path) -> Iterator[list[ApacheKafka]]:
    """Start three nodes that are brokers and controllers."""
    nodes = [
        ApacheKafka(
            kafka_libraries,
            tmp_path / f"node-{number}",
            properties={
                "node.id": str(number),
                "default.replication.factor": "3",
                "min.insync.replicas": "2",
                "offsets.topic.replication.factor": "3",
                "controller.quorum.election.timeout.ms": "1000",
                "controller.quorum.fetch.timeout.ms": "2000",
                "replica.lag.time.max.ms": "5000",
            },
            format_as=(),
        )
        for number in (1, 2, 3)
    ]
    voters = ",".join(f"{number}@127.0.0.1:{node.controller_port}" for number, node in enumerate(nodes, 1))
    for node in nodes:
        del node.properties["controller.quorum.bootstrap.servers"]
        node.properties["controller.quorum.voters"] = voters
    try:
        with ThreadPoolExecutor(3) as starters:
            list(starters.map(ApacheKafka.start, nodes))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


async def test_cluster_loses_a_leader_then_its_quorum(chaos: Chaos, cluster: list[ApacheKafka]) -> None:
    """Events are published with one of three nodes down and pending with two down; all arrive after the restart."""
    chaos.bootstrap_servers = ",".join(node.bootstrap_servers for node in cluster)
    with chaos.bridge(topics_replication_factor=3) as daemon:
        chaos.load(daemon, chaos.scaled(1500, 6000), rate=chaos.scaled(300, 200))
        chaos.wait_for_acknowledged(daemon, 200)
        cluster[0].kill()  # it leads a third of the partitions
        chaos.wait_for_acknowledged(daemon, chaos.scaled(300, 600))
        cluster[1].kill()
        chaos.wait_for_acknowledged(daemon, chaos.scaled(300, 800))
        with ThreadPoolExecutor(2) as starters:
            await asyncio.to_thread(lambda: list(starters.map(ApacheKafka.start, cluster[:2])))
        await chaos.verify(daemon, note="leader, then quorum")
