"""Graceful shutdown: two replicas share a port, one is terminated under load."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from bridge.contract.schemas import Contract
from tests.support.brokers import EMBEDDED_IS_LONG, Broker
from tests.support.daemon import TOKEN, Daemon, Load, wait_for
from tests.support.delivery_checker import assert_no_loss, read_all, verify_delivery


def deliveries(daemon: Daemon) -> float:
    """Return how many deliveries a replica has acknowledged."""
    return daemon.metric('bridge_http_requests_total{source="default",status="200"}')


@EMBEDDED_IS_LONG
async def test_one_of_two_leaves_under_load(broker: Broker, tmp_path: Path, prefix: str) -> None:
    """No delivery is lost, no connection reset and no request rejected: one replica drains, the other takes over."""
    settings: dict[str, object] = {"reuse_port": True}
    homes = [tmp_path / "first", tmp_path / "second"]
    for home in homes:
        home.mkdir()
    with Daemon(homes[0], broker.bootstrap_servers, prefix, **settings) as leaving:
        shared = settings | {"listen": urlsplit(leaving.public).netloc}
        with Daemon(homes[1], broker.bootstrap_servers, prefix, **shared) as staying:
            assert staying.public == leaving.public
            with Load(leaving, tmp_path, count=12000, seed=11, concurrency=64) as load:
                wait_for(lambda: load.acknowledged_so_far() > 1500)
                assert deliveries(leaving) > 0
                assert deliveries(staying) > 0
                assert leaving.stop() == 0
                assert leaving.logged("drained")[0]["remaining"] == 0
                report = load.finish()
            wait_for(staying.drained)
            assert report["rejected"] == {}
            assert report["connection_errors"] == 0
            names = [topic.name for topic in Contract.load(prefix).topics.values()]
            records = await read_all(broker.bootstrap_servers, names)
            verdict = verify_delivery(load.acknowledged(), records)
            # Two replicas keep an asset's order only where its events come through the same one.
            assert_no_loss(verdict._replace(disordered=[]))
            assert verdict.acknowledged == verdict.published == 12000


def test_a_connection_that_waits_to_be_accepted_is_served(embedded_broker: Broker, tmp_path: Path, prefix: str) -> None:
    """Connections made just before the stop, their requests sent just after, all get their 200 and a close."""
    body = b'{"type": "video.status.created", "asset_id": "a"}'
    head = (
        f"POST /webhooks/gumlet HTTP/1.1\r\nHost: b\r\nx-gumlet-token: {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with Daemon(tmp_path, embedded_broker.bootstrap_servers, prefix, topics_provision="create") as daemon:
        address = urlsplit(daemon.public)
        assert daemon.process is not None
        where = str(address.hostname), int(address.port or 0)
        connections = [socket.create_connection(where, timeout=20) for _ in range(200)]
        daemon.process.terminate()
        answers = []
        for connection in connections:
            connection.sendall(head.encode() + body)
        for connection in connections:
            with connection:
                answers.append(connection.recv(4096))
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), set(answers)
        assert daemon.process.wait(60) == 0
