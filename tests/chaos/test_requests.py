"""Fuzzed requests: each is rejected or published exactly once, and none harms the daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery
from tests.chaos.framework import SEED, Chaos, format_counts, topics
from tests.chaos.fuzz import Sender, corpus
from tests.support.daemon import Daemon, request, wait_for
from tests.support.delivery_checker import header, read_all, schema_violations

SENDERS = 16
GROWTH_MIB = 40


def attack(daemon: Daemon, seed: int, count: int) -> list[tuple[int | None, bytes | None]]:
    """Send a corpus, and return the status of each response with the body that a 200 acknowledges."""
    with contextlib.closing(Sender(daemon)) as sender:
        return [
            (sender.send(fuzzed.request, close=fuzzed.close, cut=fuzzed.cut), fuzzed.body)
            for fuzzed in corpus(seed, count)
        ]


async def test_fuzzed_requests(chaos: Chaos) -> None:
    """No response is a 5xx, memory does not grow, and each acknowledged body is a valid record on exactly one topic."""
    count = chaos.scaled(3000, 100_000)
    each = count // (3 * SENDERS) + 1
    answers: Counter[int | None] = Counter()
    owed: Counter[str] = Counter()
    contract = Contract.load(chaos.prefix)
    identify = Normalizer(contract, Drift()).event
    memory: list[float] = []
    with chaos.bridge() as daemon:
        for third in range(3):
            seeds = range(SEED * 1000 + third * SENDERS, SEED * 1000 + (third + 1) * SENDERS)
            with ThreadPoolExecutor(SENDERS) as senders:
                parts = senders.map(attack, [daemon] * SENDERS, seeds, [each] * SENDERS)
                for status, body in chain.from_iterable(parts):
                    answers[status] += 1
                    if status == 200 and body is not None:
                        owed[identify(Delivery(0, "default", body)).id] += 1
            memory.append(daemon.memory_mib())
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
            note=f"{memory[0]:.0f} MiB after a third, {memory[-1]:.0f} at the end",
        )
        assert not missing, f"of {owed.total()} bodies {missing.total()} are nowhere"
        assert len(records) == acknowledged
        assert acknowledged >= answers[200] > count // 2
        assert not [status for status in answers if status is not None and status >= 500], answers
        assert memory[-1] < memory[0] + GROWTH_MIB, "memory grows with what strangers send"
        assert schema_violations(records, contract) == []
        assert not daemon.logged("internal_error")
