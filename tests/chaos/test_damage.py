"""The journal is damaged while the daemon is down: it starts, quarantines, publishes the rest, and counts the loss.

Damage costs the frames that it hits and nothing else: the verdict forgives exactly the deliveries that the daemon has
counted as lost, plus those at the end of the log that nothing names any more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.queue.frame import FRAME_MAGIC
from tests.chaos.framework import LONG, Chaos
from tests.support.brokers import ApacheKafka
from tests.support.daemon import Daemon, Load, wait_for
from tests.support.journal import segments

BLOCK = 4096


def end_of(data: bytes | bytearray) -> int:
    """Return the end of the frames in a segment."""
    return len(data.rstrip(b"\0"))


def flip(path: Path) -> None:
    """Flip one bit in a body."""
    data = bytearray(path.read_bytes())
    data[data.index(b'"asset_id"', end_of(data) // 2) + 3] ^= 1
    path.write_bytes(data)


def flip_header(path: Path) -> None:
    """Flip one bit in a frame's sequence number."""
    data = bytearray(path.read_bytes())
    data[data.index(FRAME_MAGIC, end_of(data) // 2) + 16] ^= 1
    path.write_bytes(data)


def zero_middle(path: Path) -> None:
    """Zero four blocks in the middle."""
    data = bytearray(path.read_bytes())
    at = end_of(data) // 2 // BLOCK * BLOCK
    data[at : at + 4 * BLOCK] = bytes(4 * BLOCK)
    path.write_bytes(data)


def zero_head(path: Path) -> None:
    """Zero the first block: the preamble is gone."""
    data = bytearray(path.read_bytes())
    data[:BLOCK] = bytes(BLOCK)
    path.write_bytes(data)


def backlog(chaos: Chaos, daemon: Daemon) -> Load:
    """Fill a journal without Kafka, and crash."""
    load = chaos.load(daemon, chaos.scaled(400, 2000))
    load.finish()
    daemon.kill()
    return load


def lost(daemon: Daemon) -> int:
    """Return how many deliveries the daemon has counted as lost."""
    counted = int(daemon.metric("bridge_journal_lost_deliveries_total"))
    assert sum(line["lost"] for line in daemon.logged("journal_deliveries_lost")) == counted
    return counted


@pytest.mark.parametrize("damage", [flip, zero_head, *([flip_header, zero_middle] if LONG else [])])
async def test_journal_damaged(chaos: Chaos, damage: Callable[[Path], None]) -> None:
    """The daemon starts, publishes everything outside of the damaged frames, counts the loss and accepts deliveries."""
    elsewhere = chaos.bootstrap_servers
    with chaos.bridge("127.0.0.1:1") as daemon:
        load = backlog(chaos, daemon)
        damage(segments(daemon.directory / "journal")[0])
        daemon.settings["kafka_bootstrap_servers"] = elsewhere
        daemon.start()
        chaos.load(daemon, 200).finish()
        wait_for(daemon.drained, 60)
        allowed_losses = lost(daemon)
        assert 0 < allowed_losses < len(load.acknowledged()) / 4
        assert daemon.metric("bridge_journal_quarantined_bytes_total") > 0
        assert list((daemon.directory / "journal" / "quarantine").iterdir())
        await chaos.verify(daemon, allowed_losses=allowed_losses, note=f"{allowed_losses} counted as lost")


async def test_journal_cut(chaos: Chaos) -> None:
    """The second half of the only segment is cut off: the first half is published, and the cut is reported."""
    elsewhere = chaos.bootstrap_servers
    with chaos.bridge("127.0.0.1:1") as daemon:
        load = backlog(chaos, daemon)
        (segment,) = segments(daemon.directory / "journal")
        data = segment.read_bytes()
        segment.write_bytes(data[: end_of(data) // 2])
        daemon.settings["kafka_bootstrap_servers"] = elsewhere
        daemon.start()
        chaos.load(daemon, 200).finish()
        wait_for(daemon.drained, 60)
        assert "cut off" in str(daemon.logged("journal_corrupted"))
        assert daemon.metric("bridge_journal_quarantined_bytes_total") > 0
        await chaos.verify(
            daemon, allowed_losses=len(load.acknowledged()) * 2 // 3, note="half of the segment was cut off"
        )


async def test_kafka_is_not_needed_to_start_on_a_damaged_file(chaos: Chaos, victim: ApacheKafka) -> None:
    """A file of garbage in a segment's place is quarantined at once, Kafka or not; deliveries are accepted."""
    victim.freeze()
    segment = chaos.directory / "journal" / f"{1:020}.log"
    segment.parent.mkdir()
    segment.write_bytes(b"this is not a segment\n" * 1000)
    with chaos.bridge() as daemon:
        chaos.load(daemon, 100).finish()
        assert daemon.logged("journal_corrupted")
        victim.thaw()
        await chaos.verify(daemon)
