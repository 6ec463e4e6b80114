"""A backlog of many events: memory bounded, the ingress as open as without, drained to the last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.devtools.simulated_assets import generate_assets
from bridge.event import Delivery, canonical, content_id
from tests.chaos.framework import Chaos
from tests.support.daemon import wait_for
from tests.support.journal import fill_journal

MEMORY_MIB = 256
"""Limit on the process's data, which the kernel holds it to; measured is the peak of what is resident."""
GROUP = 100
DISTINCT = 50_000
"""So many deliveries are simulated; further ones are these again, as of other assets: a million in seconds."""


def deliveries(seed: int, count: int) -> Iterator[tuple[dict[str, str], Delivery]]:
    """Yield simulated deliveries, and each as `gumlet-bridge simulate` notes it when it is acknowledged."""
    now = time.time_ns() // 1_000_000  # long ago would be what Kafka's retention deletes at once
    events = ((asset.asset_id, *event) for asset in generate_assets(seed) for event in asset.events())
    distinct = [
        (asset_id, event_type, orjson.dumps(document), canonical(document))
        for asset_id, event_type, document in islice(events, min(count, DISTINCT))
    ]
    for number in range(count):
        asset_id, event_type, body, content = distinct[number % DISTINCT]
        event_id = f"{number // DISTINCT:04x}{asset_id[4:]}"
        old, new = asset_id.encode(), event_id.encode()
        noted = {
            "id": content_id("default", content.replace(old, new)),
            "type": event_type,
            "asset_id": event_id,
        }
        yield noted, Delivery(now, "default", body.replace(old, new))


def fill(directory: Path, seed: int, count: int) -> list[dict[str, str]]:
    """Write a journal as a long absence of Kafka would have left it, and return what is in it."""
    everything: list[dict[str, str]] = []

    def groups() -> Iterator[list[Delivery]]:
        part: list[Delivery] = []
        for noted, delivery in deliveries(seed, count):
            everything.append(noted)
            part.append(delivery)
            if len(part) == GROUP:
                yield part
                part = []
        if part:
            yield part

    fill_journal(directory, groups())
    return everything


def told(report: dict[str, Any]) -> str:
    """Return the acknowledgement rate as text."""
    return f"{report['acknowledged_per_second']:.0f}/s, p99 {report['latency_ms']['p99']:.0f} ms"


async def test_backlog_drains_in_bounded_memory(chaos: Chaos) -> None:
    """A long absence's backlog drains to the last event within a limit on memory, while new deliveries come in.

    How fast those are acknowledged, with the backlog and without it, is in the line.
    """
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("no prlimit to bound the process's memory with")
    count, requests = chaos.scaled(10_000, 1_000_000), chaos.scaled(500, 5000)
    owed = fill(chaos.directory / "journal", chaos.random.randrange(2**31), count)
    chaos.sent_ids |= {each["id"] for each in owed}
    with chaos.bridge(wrapper=[prlimit, f"--data={MEMORY_MIB * 1024 * 1024}"]) as daemon:
        beside = chaos.load(daemon, requests).finish()
        left = daemon.status()["journal"]["deliveries"]
        wait_for(daemon.drained, 600, "the backlog's end")
        alone = chaos.load(daemon, requests).finish()
        peak = daemon.memory_mib("VmHWM")
        note = f"backlog of {count}, {peak:.0f} MiB at most of {MEMORY_MIB}; "
        note += f"during the drain (then {left} left) {told(beside)}, "
        await chaos.verify(daemon, note=f"{note}alone {told(alone)}", backlog=owed)
        assert peak < MEMORY_MIB
