"""A backlog of many events: memory bounded, the ingress as open as without, drained to the last."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from bridge.event import Delivery, canonical, content_id
from bridge.journal_file import FILE_NAME, Group, JournalFile, pack
from bridge.simulation import lives
from tests.brokers import ApacheKafka
from tests.chaos.framework import Chaos
from tests.daemon import wait_for

MEMORY_MIB = 400
"""Limit on the process's data, which the kernel holds it to; measured is the peak of what is resident."""
GROUP = 100


def deliveries(seed: int, count: int) -> Iterator[tuple[dict[str, str], Delivery]]:
    """Yield simulated deliveries, and each as `bridge simulate` notes it when it is acknowledged."""
    left = count
    now = time.time_ns() // 1_000_000  # long ago would be what Kafka's retention deletes at once
    for asset in lives(seed):
        for event_type, document in asset.events():
            if left == 0:
                return
            left -= 1
            known_as = content_id("default", canonical(document))
            noted = {"id": known_as, "type": event_type, "asset_id": asset.asset_id}
            yield noted, Delivery(now, "default", orjson.dumps(document))


def fill(directory: Path, seed: int, count: int) -> list[dict[str, str]]:
    """Write a journal as a long absence of Kafka would have left it, and return what is in it."""
    directory.mkdir()
    file = JournalFile(directory / FILE_NAME)
    file._writer.execute("PRAGMA synchronous = OFF")  # nobody is promised anything here
    everything: list[dict[str, str]] = []
    total = last = 0
    part: list[Delivery] = []

    def write() -> None:
        nonlocal total, last
        packed = pack(part)
        total += len(packed)
        file.append(Group(last + 1, last + len(part), part[0].received_ms, len(packed), total, list(part)), packed, 0)
        last += len(part)
        part.clear()

    for noted, delivery in deliveries(seed, count):
        everything.append(noted)
        part.append(delivery)
        if len(part) == GROUP:
            write()
    if part:
        write()
    file.close()
    return everything


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has had resident."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) / 1024


async def test_backlog_drains_in_bounded_memory(chaos: Chaos, victim: ApacheKafka) -> None:
    """A long absence's backlog drains to the last event within a limit on memory, while new deliveries come in."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("no prlimit to bound the process's memory with")
    count = chaos.scaled(20_000, 150_000)
    owed = fill(chaos.directory / "journal", chaos.moments.randrange(2**31), count)
    chaos.sent_ids |= {each["id"] for each in owed}
    victim.start()
    with chaos.bridge(wrapper=[prlimit, f"--data={MEMORY_MIB * 1024 * 1024}"]) as daemon:
        assert daemon.process is not None
        chaos.load(daemon, 500, rate=200)
        wait_for(daemon.drained, 300, "the backlog's end")
        peak = peak_mib(daemon.process.pid)
        note = f"backlog of {count}, {peak:.0f} MiB at most, limit {MEMORY_MIB}"
        await chaos.verdict(daemon, note=note, backlog=owed)
        assert peak < MEMORY_MIB
