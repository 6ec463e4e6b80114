"""The in-memory queue: what it counts, when it acknowledges, and that its bound holds for everything in memory."""

from __future__ import annotations

import asyncio
import sys

import pytest

from bridge.config.sections import QueueSettings
from bridge.errors import DeliveryRejected
from bridge.event import Delivery
from bridge.queue.memory import MAX_BATCH_DELIVERIES, OVERHEAD_BYTES, MemoryQueue

MIB = 1024 * 1024


def delivery(size: int = 10) -> Delivery:
    """Return a delivery of a size."""
    return Delivery(1_700_000_000_000, "default", b"x" * size)


async def test_delivery_is_acknowledged_when_it_is_settled() -> None:
    """Nothing is acknowledged by being read."""
    async with MemoryQueue.open(QueueSettings(), 10) as queue:
        future = queue.append(delivery())
        (group,) = await queue.read()
        assert not future.done()
        queue.settle(group)
        assert future.done()
        assert (queue.depth, queue.size_bytes, queue.oldest_pending_ms) == (0, 0, None)


async def test_bound_holds_for_deliveries_whose_sender_has_given_up() -> None:
    """What timed out in the publisher's hands is still in memory: it counts until it is settled."""
    limits = QueueSettings(max_pending_bytes=MIB)
    async with MemoryQueue.open(limits, 0.01) as queue:
        futures = [queue.append(delivery(100_000)) for _ in range(10)]
        (group,) = await queue.read()
        await asyncio.wait(futures)
        assert all(isinstance(future.exception(), DeliveryRejected) for future in futures)
        with pytest.raises(DeliveryRejected, match="10 deliveries"):
            queue.append(delivery(100_000))
        queue.settle(group)
        queue.append(delivery(100_000)).cancel()


async def test_delivery_whose_sender_has_given_up_before_it_was_read_is_dropped() -> None:
    """What timed out unread leaves memory at once and is not published."""
    async with MemoryQueue.open(QueueSettings(), 0.01) as queue:
        timed_out, cancelled = queue.append(delivery()), queue.append(delivery())
        cancelled.cancel()
        await asyncio.wait([timed_out])
        assert isinstance(timed_out.exception(), DeliveryRejected)
        await asyncio.sleep(0)
        assert (queue.depth, queue.size_bytes) == (0, 0)


async def test_bound_counts_each_delivery_and_not_only_its_body() -> None:
    """Empty bodies cannot fill the memory unseen."""
    async with MemoryQueue.open(QueueSettings(max_pending_bytes=MIB), 10) as queue:
        futures = [queue.append(delivery(0)) for _ in range(MIB // OVERHEAD_BYTES)]
        with pytest.raises(DeliveryRejected):
            queue.append(delivery(0))
        for future in futures:
            future.cancel()


async def test_cost_of_appending_does_not_grow_with_what_is_in_flight() -> None:
    """Appending with thousands of groups in flight runs as many Python functions as with none."""

    def calls(queue: MemoryQueue) -> int:
        count = 0

        def profile(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(profile)
        try:
            future = queue.append(delivery())
        finally:
            sys.setprofile(None)
        future.cancel()
        return count

    async with MemoryQueue.open(QueueSettings(), 60) as queue:
        alone = calls(queue)
        for _ in range(5000):
            queue.append(delivery()).add_done_callback(lambda future: future.exception())
            await queue.read()
        assert calls(queue) < alone + 100  # a sum over the groups would be 5000; a garbage collection calls some too


async def test_deliveries_of_a_blocked_topic_are_rejected_and_the_others_acknowledged() -> None:
    """Equal deliveries are distinguished: only those that the publisher names are rejected."""
    async with MemoryQueue.open(QueueSettings(), 10) as queue:
        futures = [queue.append(delivery()) for _ in range(5)]
        (group,) = await queue.read()
        await queue.settle_and_park(group, [("a", group.deliveries[1]), ("b", group.deliveries[3])])
        rejected = [future.exception() for future in futures]
        assert [str(error) if error else None for error in rejected] == [
            None,
            "Kafka accepts no records for a",
            None,
            "Kafka accepts no records for b",
            None,
        ]
        assert queue.depth == 0


async def test_groups_are_bounded_and_in_order() -> None:
    """A burst is read as several groups whose numbers follow one another."""
    async with MemoryQueue.open(QueueSettings(), 10) as queue:
        futures = [queue.append(delivery()) for _ in range(MAX_BATCH_DELIVERIES + 1)]
        (first,), (second,) = await queue.read(), await queue.read()
        assert (first.first, first.last) == (1, MAX_BATCH_DELIVERIES)
        assert (second.first, second.last) == (MAX_BATCH_DELIVERIES + 1, MAX_BATCH_DELIVERIES + 1)
        queue.settle(second)
        assert all(future.done() for future in futures)


async def test_closing_rejects_what_is_not_settled() -> None:
    """A sender that waits at the end gets a response."""
    async with MemoryQueue.open(QueueSettings(), 10) as queue:
        read = queue.append(delivery())
        await queue.read()
        waiting = queue.append(delivery())
    assert [str(future.exception()) for future in (read, waiting)] == ["the bridge is shutting down"] * 2
