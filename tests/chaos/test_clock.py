"""The clock jumps an hour either way under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.framework import Chaos


@pytest.mark.parametrize("jump", ["+3603", "-3600"])
async def test_clock_jumps(chaos: Chaos, faults: Path, jump: str) -> None:
    """An hour forward or back and again right: acknowledged all along, published, in order.

    Kafka rejects records more than an hour ahead of its own clock: such events stay pending until Kafka accepts them.
    """
    said = chaos.directory / "clock"
    with chaos.bridge(wrapper=["env", f"LD_PRELOAD={faults}", f"CLOCK_OFFSET={said}"]) as daemon:
        chaos.load(daemon, chaos.scaled(500, 3000), rate=500)
        for offset in (jump, "+0"):
            chaos.wait_for_acknowledged(daemon, 100)
            said.write_text(f"{offset}\n")
        await chaos.verify(daemon)
