"""The network between bridge and Kafka is slow, cut in the middle of a request, half open."""

from __future__ import annotations

import time

from tests.chaos.framework import Chaos
from tests.chaos.proxy import Proxy
from tests.support.daemon import wait_for


async def test_network_slow(chaos: Chaos, proxy: Proxy) -> None:
    """A slow way to Kafka makes the journal deeper, the acknowledgements no slower, and loses nothing.

    Nor does a kill -9 of the daemon meanwhile: what is under way is still in the journal.
    """
    with chaos.bridge(f"127.0.0.1:{proxy.port}") as daemon:
        chaos.load(daemon, chaos.scaled(1000, 4000), rate=400)
        chaos.wait_for_acknowledged(daemon, 200)
        proxy.mode = "slow"
        time.sleep(chaos.scaled(2, 6))
        daemon.kill()
        daemon.start()
        proxy.mode = "pass"
        await chaos.verify(daemon)


async def test_network_cut_in_a_request(chaos: Chaos, proxy: Proxy) -> None:
    """Connections reset in the middle of a produce request repeat some events, and lose none."""
    with chaos.bridge(f"127.0.0.1:{proxy.port}") as daemon:
        chaos.load(daemon, chaos.scaled(1000, 6000), rate=500)
        for cut in range(chaos.scaled(2, 12)):
            chaos.wait_for_acknowledged(daemon, 50)
            load = chaos.loads[-1]
            proxy.cut(after=chaos.random.randrange(1, 60_000))
            wait_for(lambda cut=cut, load=load: proxy.cuts > cut or load.process.poll() is not None, 60, "a cut")
        assert proxy.cuts, "no request was cut: the test proves nothing"
        await chaos.verify(daemon, note=f"{proxy.cuts} cuts")


async def test_network_half_open(chaos: Chaos, proxy: Proxy) -> None:
    """Connections that stay open and carry nothing delay what was acknowledged, and lose nothing.

    Nor does a kill -9 of the daemon in the middle of it: unconfirmed events are still in the journal.
    """
    with chaos.bridge(f"127.0.0.1:{proxy.port}", kafka_delivery_timeout_seconds=2) as daemon:
        chaos.load(daemon, chaos.scaled(1500, 4000), rate=300)
        chaos.wait_for_acknowledged(daemon, 200)
        proxy.mode = "half-open"
        time.sleep(chaos.scaled(5, 12))  # beyond the delivery's time-out
        daemon.kill()
        daemon.start()
        proxy.mode = "pass"
        proxy.reset()
        await chaos.verify(daemon)
