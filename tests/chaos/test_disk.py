"""The journal's disk fills up, fails, or the journal is at its bound: 503, never a 200 that is not true."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import ApacheKafka
from tests.chaos.framework import Chaos
from tests.daemon import Daemon, Load, wait_for

SHIM = Path(__file__).with_name("failing_disk.c")


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that lets the disk fail."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the failing disk with")
    library = tmp_path_factory.mktemp("shim") / "failing_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"], check=True)
    return library


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
    return daemon.metric(f'bridge_refusals_total{{reason="{reason}",status="503"}}')


def past(load: Load, count: int) -> None:
    """Wait until so many more deliveries are acknowledged, or the load has ended."""
    already = load.acknowledged_so_far()
    wait_for(lambda: load.acknowledged_so_far() > already + count or load.process.poll() is not None)


@pytest.mark.parametrize("fault", ["sync", "write"])
async def test_disk_fails(chaos: Chaos, failing_disk: Path, fault: str) -> None:
    """While writes or syncs fail every delivery is refused with 503; when the disk is mended, they flow again."""
    said = chaos.directory / "fault"
    wrapper = ["env", f"LD_PRELOAD={failing_disk}", f"DISK_FAULT={said}"]
    with chaos.bridge(wrapper=wrapper) as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 6000), rate=500)
        for _ in range(chaos.scaled(1, 4)):
            past(load, 200)
            said.write_text(fault)
            wait_for(lambda: refusals(daemon, "journal_failing") > 0, what="a refusal")
            time.sleep(0.3)
            before = load.acknowledged_so_far()
            time.sleep(0.7)
            assert load.acknowledged_so_far() == before, "acknowledged while the disk failed"
            said.unlink()
        await chaos.verdict(daemon, note=f"{refusals(daemon, 'journal_failing'):.0f} refused")


async def test_disk_full_and_freed(chaos: Chaos, small_disk: Path) -> None:
    """On a full disk deliveries are refused with 503; when there is room again, they flow."""
    with chaos.bridge(journal_dir=small_disk / "journal") as daemon:
        load = chaos.load(daemon, chaos.scaled(1500, 6000), rate=500)
        for _ in range(chaos.scaled(1, 4)):
            past(load, 200)
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={small_disk / 'filler'}", "bs=4096"], stderr=subprocess.DEVNULL, check=False
            )
            # A log that already has its size is written over: only one that must grow meets the full disk.
            time.sleep(1.5)
            (small_disk / "filler").unlink()
        await chaos.verdict(daemon, note=f"{refusals(daemon, 'journal_failing'):.0f} refused")


async def test_journal_at_its_bound(chaos: Chaos, victim: ApacheKafka) -> None:
    """A journal at its bound refuses with 503 and takes deliveries again as Kafka takes events."""
    victim.stop()
    with chaos.bridge(journal_max_bytes=1024 * 1024) as daemon:
        chaos.load(daemon, chaos.scaled(3000, 6000), **{"retry-after": 1.0})
        wait_for(lambda: refusals(daemon, "journal_full") > 0, 30, "a full journal")
        victim.start()
        await chaos.verdict(daemon, note=f"{refusals(daemon, 'journal_full'):.0f} refused")
