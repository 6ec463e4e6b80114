"""The journal's file is damaged while the daemon is down: it starts, sets the file aside, says so, and goes on.

What the damaged file still holds comes back with `gumlet-bridge journal salvage --into`. What the damage itself took away
cannot come back, so the verdict here counts it: at most the rows that salvage named as unreadable.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.framework import LONG, Chaos
from tests.support.brokers import ApacheKafka
from tests.support.daemon import BRIDGE, Daemon, Load, wait_for

PAGE = 4096


def flip(path: Path) -> None:
    """Flip one bit in a body, as a bad cable does: SQLite does not notice, the checksum does."""
    data = bytearray(path.read_bytes())
    at = data.index(b'"asset_id"', len(data) // 2)
    data[at + 3] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut the file's second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // PAGE * PAGE + 100])


def zero_middle(path: Path) -> None:
    """Zero four pages in the middle."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2 // PAGE * PAGE
    data[at : at + 4 * PAGE] = bytes(4 * PAGE)
    path.write_bytes(data)


def zero_head(path: Path) -> None:
    """Zero the first page: header and schema are gone."""
    data = bytearray(path.read_bytes())
    data[:PAGE] = bytes(PAGE)
    path.write_bytes(data)


def checkpoint(path: Path) -> None:
    """Bring the write-ahead log into the file, so that the damage meets all of it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def salvage(daemon: Daemon, files: list[Path]) -> tuple[int, int]:
    """Put back what can be read, and return how many deliveries that were and how many rows were not readable."""
    command = [*BRIDGE, "journal", "salvage", *map(str, files), "--into", str(daemon.directory / "journal")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    unreadable = sum(map(int, re.findall(r"(\d+) rows unreadable", told.stderr)))
    (back,) = re.findall(r"(\d+) deliveries put into", told.stderr)
    return int(back), unreadable


def backlog(chaos: Chaos, daemon: Daemon) -> Load:
    """Fill a journal without Kafka, and crash."""
    load = chaos.load(daemon, chaos.scaled(400, 2000))
    load.finish()
    daemon.kill()
    return load


@pytest.mark.parametrize("damage", [flip, zero_head, *([cut, zero_middle] if LONG else [])])
async def test_journal_damaged(chaos: Chaos, damage: Callable[[Path], None]) -> None:
    """The daemon starts on a damaged journal and takes deliveries; what the file still holds is published too."""
    elsewhere = chaos.bootstrap_servers
    with chaos.bridge("127.0.0.1:1") as daemon:
        load = backlog(chaos, daemon)
        journal = daemon.directory / "journal" / "journal.sqlite"
        checkpoint(journal)
        damage(journal)
        daemon.settings["kafka_bootstrap_servers"] = elsewhere
        daemon.start()
        chaos.load(daemon, 200).finish()
        wait_for(lambda: daemon.logged("journal_corrupted") or daemon.drained(), what="the damage told")
        aside = [path for path in journal.parent.glob("*.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
        allowed_losses, note = 0, "unnoticed"
        if aside:
            wait_for(daemon.drained, 60)
            assert daemon.metric("bridge_journal_corruptions_total") == 1
            assert daemon.stop() == 0
            before = aside[0].read_bytes()
            back, unreadable = salvage(daemon, aside)
            assert aside[0].read_bytes() == before
            assert back > 0
            daemon.start()
            # Each delivery of the load that is neither readable nor published is one that the damage took: the line
            # says how many, and the promise is asserted for all the others.
            allowed_losses, note = len(load.acknowledged()) - back, f"{back} salvaged, {unreadable} rows unreadable"
        await chaos.verify(daemon, allowed_losses=allowed_losses, note=note)
        assert aside


async def test_journal_lost_its_log(chaos: Chaos) -> None:
    """A journal whose write-ahead log is gone is what it was at the last checkpoint: the daemon says so, and flows."""
    with chaos.bridge("127.0.0.1:1") as daemon:
        load = backlog(chaos, daemon)
        journal = daemon.directory / "journal" / "journal.sqlite"
        checkpoint(journal)
        kept_rows = journal.stat().st_size
        daemon.start()
        more = chaos.load(daemon, 100)
        more.finish()
        daemon.kill()
        journal.with_name("journal.sqlite-wal").unlink()
        journal.with_name("journal.sqlite-shm").unlink(missing_ok=True)
        assert journal.stat().st_size >= kept_rows
        daemon.settings["kafka_bootstrap_servers"] = chaos.bootstrap_servers
        daemon.start()
        await chaos.verify(daemon, allowed_losses=100, note="the log held 100")
        assert load.acknowledged()
        assert [line["missing"] for line in daemon.logged("journal_deliveries_lost")] == [100]


async def test_journal_log_damaged(chaos: Chaos) -> None:
    """A flipped bit in the write-ahead log hides all that follows from SQLite: it is noticed, and salvaged."""
    elsewhere = chaos.bootstrap_servers
    with chaos.bridge("127.0.0.1:1") as daemon:
        load = chaos.load(daemon, 400)  # so few that all of it is in the log alone
        load.finish()
        daemon.kill()
        journal = daemon.directory / "journal" / "journal.sqlite"
        flip(journal.with_name("journal.sqlite-wal"))
        daemon.settings["kafka_bootstrap_servers"] = elsewhere
        daemon.start()
        chaos.load(daemon, 200).finish()
        wait_for(daemon.drained, 60)
        allowed_losses, note = 0, "unnoticed"
        if told := daemon.logged("journal_deliveries_lost"):
            assert daemon.metric("bridge_journal_lost_deliveries_total") == told[0]["missing"]
            assert daemon.stop() == 0
            back, unreadable = salvage(daemon, [Path(told[0]["copy"])])
            daemon.start()
            allowed_losses = len(load.acknowledged()) - back
            note = f"{told[0]['missing']} missing, {back} salvaged, {unreadable} rows unreadable"
        await chaos.verify(daemon, allowed_losses=allowed_losses, note=note)
        assert told
        assert allowed_losses < len(load.acknowledged()) / 10


async def test_kafka_is_not_needed_to_start_on_a_damaged_file(chaos: Chaos, victim: ApacheKafka) -> None:
    """A file of garbage in the journal's place is set aside at once, Kafka or not; deliveries are taken."""
    victim.freeze()
    journal = chaos.directory / "journal" / "journal.sqlite"
    journal.parent.mkdir()
    journal.write_bytes(b"this is no journal\n" * 1000)
    with chaos.bridge() as daemon:
        chaos.load(daemon, 100).finish()
        assert daemon.logged("journal_corrupted")
        victim.thaw()
        await chaos.verify(daemon)
