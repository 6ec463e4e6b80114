"""`gumlet-bridge health` asks the daemon at the admin address of the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.support.cli import bridge
from tests.support.daemon import Daemon

NO_KAFKA = "127.0.0.1:9"


async def test_health_exits_0_while_the_daemon_is_ready(tmp_path: Path) -> None:
    """Ready without Kafka: deliveries are accepted into the journal."""
    with Daemon(tmp_path, NO_KAFKA) as daemon:
        done = await bridge("health", admin_listen=urlsplit(daemon.admin).netloc)
        assert (done.code, done.err) == (0, "")


async def test_health_exits_1_with_the_reason_when_no_daemon_answers() -> None:
    """The message names the address and the setting."""
    done = await bridge("health", admin_listen=NO_KAFKA)
    assert done.code == 1
    assert f"http://{NO_KAFKA}/readyz" in done.err
    assert "BRIDGE_ADMIN_LISTEN" in done.err


async def test_health_exits_1_with_the_daemons_reason_when_it_is_not_ready(tmp_path: Path) -> None:
    """A journal without room answers 503; the reason is the daemon's."""
    with Daemon(tmp_path, NO_KAFKA, journal_min_free_bytes=2**60) as daemon:
        done = await bridge("health", admin_listen=urlsplit(daemon.admin).netloc)
        assert done.code == 1
        assert "not ready" in done.err
        assert "disk" in done.err
