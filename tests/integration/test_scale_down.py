"""A scale-down in miniature: two replicas share a port under load, and one of them is told to leave."""

from __future__ import annotations

from pathlib import Path

from bridge.contract import Contract
from tests.brokers import Broker
from tests.checker import judge, kept, read_all
from tests.daemon import Daemon, Load, wait_for

COUNT = 3000


async def test_a_replica_that_leaves_loses_nothing_and_resets_no_connection(
    tmp_path: Path, embedded_broker: Broker, prefix: str
) -> None:
    """Deliveries go on while one of two replicas drains and ends: each is answered, each is on Kafka."""
    options = {"topics_provision": "off", "reuse_port": True}
    homes = [tmp_path / "stays", tmp_path / "leaves"]
    for home in homes:
        home.mkdir()
    with Daemon(homes[0], embedded_broker.bootstrap_servers, prefix, **options) as stays:
        leaves = Daemon(homes[1], embedded_broker.bootstrap_servers, prefix, **options)
        leaves.settings["listen"] = stays.settings["listen"]
        with leaves, Load(stays, tmp_path, COUNT, 7, rate=400) as load:
            ok = 'bridge_deliveries_total{source="default",status="200"}'
            # Both serve: the kernel spreads connections, not requests, so each must have got one.
            wait_for(lambda: leaves.metric(ok) > 50 and stays.metric(ok) > 50, what="both replicas under load")
            assert leaves.stop() == 0
            (drained,) = leaves.logged("drained")
            assert drained["left"] == 0
            report = load.finish()
        wait_for(stays.drained, what="the drain of the one that stays")
        topics = [topic.name for topic in Contract.load(prefix).topics.values()]
        records = await read_all(embedded_broker.bootstrap_servers, topics)
        acknowledged = load.acknowledged()
    assert report["connection_errors"] == 0
    assert report["refused"] == {}
    assert report["acknowledged"] == COUNT
    kept(judge(acknowledged, records, {each["id"] for each in acknowledged}))
