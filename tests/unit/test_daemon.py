"""The end of the daemon after a crash of one of its parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge import daemon
from bridge.admin.server import Admin
from bridge.config.settings import load
from bridge.queue.interface import DeliveryQueue
from bridge.queue.journal import Journal


def crash(*_: object) -> Any:
    """Stand for any part of the daemon."""
    raise RuntimeError("a crash")


@pytest.mark.parametrize("phase", ["start", "run"])
async def test_shutdown_after_a_crash_is_bounded(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that never closes does not keep a crashed daemon alive: the process ends at the stop limit."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    codes: list[int] = []
    open_journal = Journal.open

    @contextlib.asynccontextmanager
    async def open_and_hang(*arguments: Any) -> AsyncIterator[DeliveryQueue]:
        async with open_journal(*arguments) as journal:
            try:
                yield journal
            finally:
                await ended.wait()

    def end(code: int) -> None:
        codes.append(code)
        loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(Journal, "open", open_and_hang)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(daemon, "STOP_GRACE_SECONDS", 0.1)
    if phase == "start":
        monkeypatch.setattr(Admin, "listening", crash)
    settings = load(
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        tokens="secret",
        shutdown_timeout_seconds=0.1,
        journal={"dir": tmp_path},
        kafka={"bootstrap_servers": "127.0.0.1:1"},
    )
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a crash"), flatten_subgroups=True):
        async with asyncio.timeout(30):
            await daemon.run(settings, ready=crash, stop=asyncio.Event())
    assert codes == [daemon.EXIT_STOP_TIMED_OUT]
