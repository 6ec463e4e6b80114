"""The publisher alone: how far it reads ahead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.config.sections import KafkaSettings
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from bridge.publisher import publisher
from bridge.publisher.publisher import Publisher
from bridge.queue.interface import Group
from bridge.telemetry.metrics import Metrics


class Endless:
    """A backlog that never ends: each group is one delivery of `size` bytes."""

    depth = 1_000_000

    def __init__(self, size: int) -> None:
        self.size = size
        self.read_groups = 0
        self.has_pending_acks = False

    async def read(self) -> list[Group]:
        """Return the next group."""
        self.read_groups += 1
        delivery = Delivery(1_700_000_000_000, "default", b"x" * self.size)
        return [Group(self.read_groups, self.read_groups, delivery.received_ms, self.size, 0, [delivery])]


def publisher_of(backlog: Any) -> Publisher:
    """Return a publisher that is not running."""

    async def nothing() -> None:
        pass

    return Publisher(backlog, Normalizer(Contract.load()), KafkaSettings(), Metrics(), nothing)


@pytest.mark.parametrize(
    ("size", "most"), [(10, publisher.PREFETCH_EVENTS), (512 * 1024, publisher.PREFETCH_BYTES // (512 * 1024))]
)
async def test_it_reads_ahead_so_far_and_no_further(size: int, most: int) -> None:
    """What waits to be sent is bounded in events and in bytes, and reading goes on when a window is taken."""
    backlog = Endless(size)
    reading = publisher_of(backlog)
    preparing = asyncio.create_task(reading._prefetch())
    for _ in range(50):
        await asyncio.sleep(0)
    assert backlog.read_groups == most
    window = await reading._next_window()
    assert window.upto.last == len(window.events) == most // 2
    for _ in range(50):
        await asyncio.sleep(0)
    assert backlog.read_groups == most + most // 2
    preparing.cancel()


async def test_a_backlog_gives_way_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """While deliveries wait for their answer a large backlog pauses after each slice, and else it does not."""
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    backlog = Endless(10)
    reading = publisher_of(backlog)
    group = (await backlog.read())[0]
    many = group._replace(deliveries=group.deliveries * publisher.NORMALIZE_CHUNK_EVENTS)

    async def read() -> list[Group]:
        backlog.has_pending_acks = len(pauses) >= 2
        return [many]

    backlog.read = read  # type: ignore[method-assign]
    monkeypatch.setattr(publisher.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    preparing = asyncio.create_task(reading._prefetch())
    while len(pauses) < 4:
        await real(0)
    preparing.cancel()
    assert pauses[:4] == [0, 0, publisher.YIELD_SECONDS, publisher.YIELD_SECONDS]
