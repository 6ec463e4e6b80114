"""The clock jumps an hour either way under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.framework import Chaos
from tests.daemon import wait_for


@pytest.fixture
def fake_clock() -> Path:
    """Find libfaketime; skip, by name, where it is not installed."""
    for place in Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"):
        return place
    pytest.skip("no libfaketime (Debian: apt-get install faketime)")


@pytest.mark.parametrize("jump", ["+3600", "-3600"])
async def test_clock_jumps(chaos: Chaos, fake_clock: Path, jump: str) -> None:
    """An hour forward or back and again right: acknowledged all along, published, in order."""
    said = chaos.directory / "clock"
    said.write_text("+0\n")
    wrapper = ["env", f"LD_PRELOAD={fake_clock}", f"FAKETIME_TIMESTAMP_FILE={said}", "FAKETIME_NO_CACHE=1"]
    with chaos.bridge(wrapper=[*wrapper, "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]) as daemon:
        load = chaos.load(daemon, chaos.scaled(500, 3000), rate=500)
        for offset in (jump, "+0"):
            already = load.acknowledged_so_far()
            wait_for(lambda already=already: load.acknowledged_so_far() > already + 100)
            said.write_text(f"{offset}\n")
        await chaos.verdict(daemon)
