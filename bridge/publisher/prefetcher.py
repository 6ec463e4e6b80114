"""Reads ahead: turns the queue's deliveries into events while others are sent, and collects them into windows.

Input: the groups of the delivery queue. Output: windows, in order, each with as many events as are ready.

Invariants: what is normalized and not sent is bounded in events and in bytes, whatever the backlog. The linger delays
an event by at most `linger_seconds`; a full window, a backlog and a stop are not delayed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from bridge.publisher.conversion import EventConverter
from bridge.publisher.outgoing import OutgoingEvent
from bridge.queue.interface import DeliveryQueue, Group

WINDOW_EVENTS = 1000
"""About the events sent at once: enough for full batches, few enough to be repeated after a crash."""
WINDOW_BYTES = 4 * 1024 * 1024
"""About the bytes of deliveries sent at once, where they are large."""
NORMALIZE_CHUNK_EVENTS = 25
"""Events normalized before the loop may serve requests again: below a millisecond."""
YIELD_BACKLOG_EVENTS = 10 * WINDOW_EVENTS
"""A backlog larger than this leaves the loop to requests that wait for their acknowledgement ..."""
YIELD_SECONDS = 0.002
"""... for this long after each chunk."""
PREFETCH_EVENTS = 2 * WINDOW_EVENTS
PREFETCH_BYTES = 2 * WINDOW_BYTES
"""About the most that is normalized while a window is sent: memory does not grow with the backlog."""
READ_SECONDS = 0.02
"""The longest that a window waits for further groups that are in the queue already."""


class SendWindow(NamedTuple):
    """Events that are sent together, and the group that ends with the last of them."""

    events: list[OutgoingEvent]
    upto: Group


class Prefetcher:
    """Makes windows of a queue's deliveries while `run` runs."""

    def __init__(self, queue: DeliveryQueue, converter: EventConverter, linger_seconds: float) -> None:
        self._queue = queue
        self._converter = converter
        self._linger_seconds = linger_seconds
        self._ready: deque[SendWindow] = deque()
        self._ready_events = self._ready_bytes = 0
        self._unsettled = 0
        self._window_ready = asyncio.Event()
        self._window_taken = asyncio.Event()

    @property
    def pending(self) -> int:
        """Deliveries that are neither settled nor parked."""
        return self._queue.depth - sum(self._queue.parked.values())

    def stop_lingering(self) -> None:
        """Delay no further event."""
        self._linger_seconds = 0.0

    def settled(self, count: int) -> None:
        """Count deliveries of windows that are settled or parked."""
        self._unsettled -= count

    async def run(self) -> None:
        """Read ahead until cancelled."""
        while True:
            for group in await self._queue.read():
                await self._convert(group)
                while self._ready_events >= PREFETCH_EVENTS or self._ready_bytes >= PREFETCH_BYTES:
                    self._window_ready.set()
                    self._window_taken.clear()
                    await self._window_taken.wait()
            caught_up = self.pending <= self._unsettled
            full = self._ready_events >= WINDOW_EVENTS or self._ready_bytes >= WINDOW_BYTES
            if caught_up or full:
                self._window_ready.set()
            else:  # more can be read at once; if it cannot (a damaged journal), the window is sent all the same
                asyncio.get_running_loop().call_later(READ_SECONDS, self._window_ready.set)
            # Collect: one produce request then serves many events.
            if caught_up and self._linger_seconds and not full:
                await asyncio.sleep(self._linger_seconds)

    async def _convert(self, group: Group) -> None:
        events: list[OutgoingEvent] = []
        self._unsettled += len(group.deliveries)
        for number, delivery in enumerate(group.deliveries, group.first):
            events.append(self._converter.convert(delivery, number))
            if len(events) % NORMALIZE_CHUNK_EVENTS == 0:
                # A large backlog yields to requests that wait for their acknowledgement.
                yields = self._queue.has_pending_acks and self._queue.depth > YIELD_BACKLOG_EVENTS
                await asyncio.sleep(YIELD_SECONDS if yields else 0)
        self._ready.append(SendWindow(events, group))
        self._ready_events += len(events)
        self._ready_bytes += group.size

    async def next_window(self) -> SendWindow:
        """Return what became ready while the last window was sent, up to a window's size."""
        while not self._ready:
            self._window_ready.clear()
            await self._window_ready.wait()
        events, upto = self._ready.popleft()
        size = upto.size
        while self._ready and len(events) + len(self._ready[0].events) <= WINDOW_EVENTS and size < WINDOW_BYTES:
            more, upto = self._ready.popleft()
            events += more
            size += upto.size
        self._ready_events -= len(events)
        self._ready_bytes -= size
        self._window_taken.set()
        return SendWindow(events, upto)
