"""Fuzzed requests and senders with wrong tokens, while honest senders deliver: none of these is delayed or lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from tests.chaos.framework import SEED, Chaos, format_counts, topics
from tests.chaos.fuzz import Sender, address, corpus
from tests.chaos.fuzz import request as fuzz_request
from tests.support.daemon import Daemon, request, wait_for
from tests.support.delivery_checker import header, read_all, schema_violations, verify_delivery

SENDERS = 16
GROWTH_MIB = 40


def attack(daemon: Daemon, seed: int, count: int) -> list[tuple[int | None, bytes | None]]:
    """Send a corpus, and return the status of each response with the body that a 200 acknowledges."""
    with contextlib.closing(Sender(daemon)) as sender:
        return [(sender.deliver(fuzzed), fuzzed.body) for fuzzed in corpus(seed, count)]


class HonestSenders:
    """A load that is started again and again until `stop`, and never retries."""

    def __init__(self, chaos: Chaos, daemon: Daemon) -> None:
        self._chaos = chaos
        self._daemon = daemon
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._chaos.load(self._daemon, 500, rate=100).finish(300)

    def stop(self) -> tuple[list[dict[str, Any]], float, int]:
        """Return the acknowledged deliveries, the slowest response in seconds, and how many responses were no 200."""
        self._stopping.set()
        self._thread.join()
        reports = [load.finish() for load in self._chaos.loads]
        acknowledged = [delivery for load in self._chaos.loads for delivery in load.acknowledged()]
        slowest = max(report["latency_ms"]["max"] for report in reports) / 1000
        others = sum(sum(report["rejected"].values()) + report["connection_errors"] for report in reports)
        return acknowledged, slowest, others


@contextlib.contextmanager
def silent_strangers(daemon: Daemon, count: int) -> Iterator[Counter[str]]:
    """Keep connections open with wrong tokens; open another one for each that the daemon closes."""
    stop = threading.Event()
    seen: Counter[str] = Counter()

    def hold() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(address(daemon), timeout=0.5) as connection:
                seen["connections"] += 1
                connection.sendall(fuzz_request(b"{}", "Content-Length: 2", token="wrong"))
                while not stop.is_set() and connection.recv(65536):
                    seen["responses"] += 1

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def test_wrong_tokens_hold_every_connection(chaos: Chaos) -> None:
    """Senders with wrong tokens occupy all connections and return at once; honest senders get their 200, lost 0."""
    with (
        chaos.bridge(max_connections=64) as daemon,
        silent_strangers(daemon, 80) as seen,
    ):
        await asyncio.to_thread(wait_for, lambda: seen["responses"] >= 80, 60)
        load = chaos.load(daemon, chaos.scaled(1000, 10_000), rate=200, concurrency=8)
        report = await asyncio.to_thread(load.finish, 300)
        rejected = daemon.metric('bridge_http_requests_rejected_total{reason="invalid_token",status="401"}')
        assert rejected >= 80
        note = f"{seen['connections']} connections with a wrong token, slowest 200 {report['latency_ms']['max']:.0f} ms"
        await chaos.verify(daemon, note=note)


async def test_fuzzed_requests(chaos: Chaos) -> None:
    """Every honest delivery gets its 200 meanwhile. No response is a 5xx, memory is bounded, the process stays.

    Each acknowledged body is a valid record on exactly one topic.
    """
    count = chaos.scaled(3000, 200_000)
    each = count // (3 * SENDERS) + 1
    answers: Counter[int | None] = Counter()
    owed: Counter[str] = Counter()
    contract = Contract.load(chaos.prefix)
    identify = Normalizer(contract, Drift()).event
    memory: list[float] = []
    with chaos.bridge() as daemon:
        honest = HonestSenders(chaos, daemon)
        for third in range(3):
            seeds = range(SEED * 1000 + third * SENDERS, SEED * 1000 + (third + 1) * SENDERS)
            with ThreadPoolExecutor(SENDERS) as senders:
                parts = senders.map(attack, [daemon] * SENDERS, seeds, [each] * SENDERS)
                for status, body in chain.from_iterable(parts):
                    answers[status] += 1
                    if status == 200 and body is not None:
                        owed[identify(Delivery(0, "default", body)).id] += 1
            memory.append(daemon.memory_mib())
        deliveries, slowest, others = await asyncio.to_thread(honest.stop)
        assert daemon.process is not None
        assert daemon.process.poll() is None
        await asyncio.to_thread(wait_for, daemon.drained, 120)
        acknowledged = sum(
            int(float(line.rpartition(" ")[2]))
            for line in request(daemon.admin, "GET", "/metrics").body.splitlines()
            if line.startswith("bridge_http_requests_total{") and 'status="200"' in line  # of whatever source
        )
        records = await read_all(chaos.bootstrap_servers, topics(chaos.prefix))
        missing = owed - Counter(header(record, "ce_id") for record in records)
        chaos.add_result(
            sent=answers.total(),
            acknowledged=acknowledged,
            refused=format_counts(
                {str(status or "no answer"): times for status, times in answers.items() if status != 200}
            ),
            published=len(records),
            repeated=max(0, len(records) - acknowledged),
            lost=missing.total(),
            note=f"{memory[0]:.0f} MiB after a third, {memory[-1]:.0f} at the end; "
            f"{len(deliveries)} honest deliveries, slowest 200 {slowest:.3f} s",
        )
        assert not others, f"{others} honest deliveries did not get 200 at once"
        assert deliveries
        assert not verify_delivery(deliveries, records).lost
        assert not missing, f"of {owed.total()} bodies {missing.total()} are nowhere"
        assert len(records) == acknowledged
        assert acknowledged >= answers[200] > count // 2
        assert not [status for status in answers if status is not None and status >= 500], answers
        assert memory[-1] < memory[0] + GROWTH_MIB, "memory grows with what strangers send"
        assert schema_violations(records, contract) == []
        assert not daemon.logged("internal_error")
