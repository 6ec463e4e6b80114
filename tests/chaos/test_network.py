"""The network between bridge and Kafka is slow, cut in the middle of a request, half open."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.brokers import ApacheKafka
from tests.chaos.framework import Chaos, proxied
from tests.chaos.proxy import Proxy
from tests.daemon import wait_for


@pytest.fixture
def proxy(victim: ApacheKafka) -> Iterator[Proxy]:
    """Give a way to Kafka that can be hurt: the listener that `conftest` has advertised behind it."""
    with Proxy(*proxied(victim)) as way:
        yield way


async def test_network_slow(chaos: Chaos, proxy: Proxy) -> None:
    """A slow way to Kafka makes the journal deeper, the acknowledgements no slower, and loses nothing."""
    with chaos.bridge(f"127.0.0.1:{proxy.port}") as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 5000), rate=400)
        wait_for(lambda: load.acknowledged_so_far() > 300)
        proxy.mode = "slow"
        time.sleep(chaos.scaled(3, 15))
        proxy.mode = "pass"
        await chaos.verdict(daemon)


async def test_network_cut_in_a_request(chaos: Chaos, proxy: Proxy) -> None:
    """Connections reset in the middle of a produce request repeat some events, and lose none."""
    cuts = chaos.scaled(3, 15)
    with chaos.bridge(f"127.0.0.1:{proxy.port}") as daemon:
        load = chaos.load(daemon, chaos.scaled(2500, 10_000), rate=500)
        for cut in range(cuts):
            already = load.acknowledged_so_far()
            wait_for(
                lambda already=already: load.acknowledged_so_far() > already + 50 or load.process.poll() is not None
            )
            proxy.cut(after=chaos.moments.randrange(1, 60_000))
            wait_for(lambda cut=cut: proxy.cuts > cut or load.process.poll() is not None, 30, "a cut")
        assert proxy.cuts, "no request was cut: the test proves nothing"
        await chaos.verdict(daemon, note=f"{proxy.cuts} cuts")


async def test_network_half_open(chaos: Chaos, proxy: Proxy) -> None:
    """Connections that stay open and carry nothing delay what was acknowledged, and lose nothing."""
    with chaos.bridge(f"127.0.0.1:{proxy.port}", kafka_delivery_timeout_seconds=5) as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 5000), rate=300)
        wait_for(lambda: load.acknowledged_so_far() > 300)
        proxy.mode = "half-open"
        time.sleep(chaos.scaled(4, 20))
        proxy.mode = "pass"
        proxy.reset()
        await chaos.verdict(daemon)
