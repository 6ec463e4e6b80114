"""The journal's disk fills up, fails, or the journal is at its bound: 503, never a 200 that is not true."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.framework import LONG, Chaos
from tests.chaos.proxy import Proxy
from tests.support.daemon import Daemon, wait_for


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of a few megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if told.returncode != 0:
        pytest.skip(f"no small disk can be mounted: {told.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def refusals(daemon: Daemon, reason: str) -> float:
    """Return how many deliveries were refused for a reason."""
    return daemon.metric(f'bridge_http_requests_rejected_total{{reason="{reason}",status="503"}}')


def no_longer_acknowledged(chaos: Chaos, daemon: Daemon) -> int:
    """Wait until the disk's fault is met, and return how many deliveries are acknowledged in a second of it."""
    before = refusals(daemon, "journal_unavailable")
    reached = chaos.loads[-1].acknowledged_so_far() + 200
    wait_for(
        lambda: (
            refusals(daemon, "journal_unavailable") > before
            or chaos.loads[-1].acknowledged_so_far() > reached
            or chaos.loads[-1].process.poll() is not None
        ),
        what="the fault",
    )
    time.sleep(0.3)
    already = chaos.loads[-1].acknowledged_so_far()
    time.sleep(0.7)
    return chaos.loads[-1].acknowledged_so_far() - already


@pytest.mark.parametrize("fault", ["sync", "write", "read-only"] if LONG else ["write", "read-only"])
async def test_disk_fails(chaos: Chaos, faults: Path, fault: str) -> None:
    """While the disk fails every delivery is rejected with 503; once it works, deliveries are accepted again.

    The daemon is killed while the disk fails: every delivery acknowledged before is still in the journal.
    """
    said = chaos.directory / "fault"
    with chaos.bridge(wrapper=["env", f"LD_PRELOAD={faults}", f"DISK_FAULT={said}"]) as daemon:
        chaos.load(daemon, chaos.scaled(500, 3000), rate=500)
        wrongly = 0
        for _ in range(chaos.scaled(1, 2)):
            chaos.wait_for_acknowledged(daemon, 200)
            said.write_text(fault)
            wrongly += no_longer_acknowledged(chaos, daemon)
            daemon.kill()
            said.unlink()
            daemon.start()
        await chaos.verify(daemon)
        assert not wrongly, f"{wrongly} acknowledged while the disk failed"


def test_read_only_journal_is_told_at_start(chaos: Chaos, faults: Path) -> None:
    """A daemon that can never keep its promise does not start, and says what to do."""
    said = chaos.directory / "fault"
    daemon = chaos.bridge(wrapper=["env", f"LD_PRELOAD={faults}", f"DISK_FAULT={said}"])
    with daemon:
        assert daemon.stop() == 0
        said.write_text("read-only")
        assert daemon.spawn().wait(30) == 1
        assert "Read-only file system" in daemon.log()
        assert "Fix: make it writable" in daemon.log()


async def test_disk_full_and_freed(chaos: Chaos, small_disk: Path) -> None:
    """On a full disk deliveries are rejected with 503; once space is free, they are accepted."""
    with chaos.bridge(journal_dir=small_disk / "journal") as daemon:
        chaos.load(daemon, chaos.scaled(600, 3000), rate=500)
        for _ in range(chaos.scaled(1, 3)):
            chaos.wait_for_acknowledged(daemon, 200)
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={small_disk / 'filler'}", "bs=4096"], stderr=subprocess.DEVNULL, check=False
            )
            # A log that already has its size is written over: only one that must grow meets the full disk.
            time.sleep(1.5)
            (small_disk / "filler").unlink()
        await chaos.verify(daemon, note=f"{refusals(daemon, 'journal_unavailable'):.0f} refused")


async def test_journal_at_its_bound(chaos: Chaos, proxy: Proxy) -> None:
    """A full journal responds 503 and accepts deliveries again once Kafka accepts events."""
    bound = 1024 * 1024
    proxy.mode = "down"
    with chaos.bridge(f"127.0.0.1:{proxy.port}", journal_max_bytes=bound) as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 6000), **{"retry-after": 1.0})
        wait_for(lambda: refusals(daemon, "journal_full") or load.process.poll() is not None, 30, "a full journal")
        held = daemon.status()["journal"]["bytes"]
        proxy.mode = "pass"
        await chaos.verify(daemon, note=f"{refusals(daemon, 'journal_full'):.0f} refused")
        assert held <= bound
