"""The daemon is killed, stopped, started twice: what it had acknowledged is published all the same."""

from __future__ import annotations

import signal
import subprocess

from tests.chaos.framework import Chaos
from tests.support.daemon import Daemon, wait_for


def killed(chaos: Chaos, daemon: Daemon, round_: int) -> str:
    """Kill at a random instant of one of the daemon's phases, and return the phase."""
    phase = ("work", "work", "start-up", "drain", "shutdown")[round_ % 5]
    if phase == "start-up":
        daemon.kill()
        process = daemon.spawn()
        chaos.pause(0.05, 0.9)
        process.kill()
        process.wait()
    elif phase in ("drain", "shutdown"):
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        chaos.pause(0.0, 0.05 if phase == "drain" else 0.4)
        daemon.kill()
    else:
        chaos.pause(0.05, 0.5)
        daemon.kill()
    return phase


async def test_kill_nine_at_random_instants(chaos: Chaos) -> None:
    """Kill -9 under load, in start-up, drain and shutdown too, loses nothing and keeps each asset's order."""
    rounds = chaos.scaled(5, 50)
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(1500, 20_000), rate=500)
        for round_ in range(rounds):
            chaos.wait_for_acknowledged(daemon)
            killed(chaos, daemon, round_)
            daemon.start()
        await chaos.verify(daemon, note=f"{rounds} kills")


async def test_sigterm_twice_under_load(chaos: Chaos) -> None:
    """A second SIGTERM during the drain neither hurries nor hinders it: exit code 0, nothing lost."""
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(1000, 4000), rate=1000)
        for _ in range(chaos.scaled(1, 3)):
            chaos.wait_for_acknowledged(daemon, 200)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            wait_for(lambda: daemon.logged("stopping"), what="the stop's beginning")
            assert daemon.stop() == 0
            assert daemon.logged("drained")
            daemon.start()
        await chaos.verify(daemon)


async def test_two_daemons_on_one_journal(chaos: Chaos) -> None:
    """The second daemon ends by name with "try again later" (75); the first one does not notice."""
    with chaos.bridge() as daemon:
        chaos.load(daemon, chaos.scaled(500, 2000), rate=500)
        chaos.wait_for_acknowledged(daemon, 100)
        second = chaos.bridge()
        second.log_file = chaos.directory / "second.log"
        process = second.spawn()
        wait_for(lambda: process.poll() is not None or second.logged("listening"), what="the second's end")
        try:
            await chaos.verify(daemon)
        finally:
            second.kill()
        assert process.returncode == 75
        assert "is in use by process" in second.log()
        assert isinstance(daemon.process, subprocess.Popen)
        assert daemon.process.poll() is None
