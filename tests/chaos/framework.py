"""What every scenario is made of: the daemon under load, a fault, its healing, one verdict, one line of a table.

A scenario starts what it needs with `Chaos.bridge` and `Chaos.load`, makes its fault, heals it and ends with
`Chaos.verdict`, which waits until everything has drained, asks the checker and adds the scenario's line. All that is
random comes from one seed (CHAOS_SEED), so a run can be repeated; `long` is what `make chaos` asks for (CHAOS=long),
the short form is part of `make test`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yarl import URL

from bridge.contract.schemas import Contract
from bridge.devtools.load_generator import LoadProfile
from bridge.event import canonical, content_id
from tests.support.brokers import ApacheKafka
from tests.support.brokers.apache import free_port
from tests.support.daemon import Daemon, Load, wait_for
from tests.support.delivery_checker import Kept, judge, kept, read_kept

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED", "1"))
DRAIN_SECONDS = 120.0


class Line(NamedTuple):
    """A scenario's line in the table."""

    scenario: str
    sent: int
    acknowledged: int
    refused: str
    published: int
    repeated: int
    lost: int
    took: float
    silence: float = 0.0
    drain: float = 0.0
    note: str = ""


def kafka_with_proxied_listener(libs: Path, directory: Path) -> ApacheKafka:
    """Return a node with a second listener, which its clients are told to reach by a port that a proxy takes."""
    behind, proxy = free_port(), free_port()
    node = ApacheKafka(
        libs,
        directory,
        listeners={"PROXIED": f"127.0.0.1:{behind}"},
        properties={
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        },
    )
    node._properties["advertised.listeners"] = f"PLAINTEXT://{node.bootstrap_servers},PROXIED://127.0.0.1:{proxy}"
    return node


def proxied(node: ApacheKafka) -> tuple[int, int]:
    """Return the port that the node's clients are told, and the one that it listens on behind it."""
    told = node._properties["advertised.listeners"].rpartition(":")[2]
    (behind,) = [each for each in node._properties["listeners"].split(",") if each.startswith("PROXIED")]
    return int(told), int(behind.rpartition(":")[2])


def topics(prefix: str) -> list[str]:
    """Return every topic that a bridge with this prefix can publish to."""
    return [topic.name for topic in Contract.load(prefix).topics.values()]


def ids(seed: int, count: int) -> set[str]:
    """Return the ids of all that a load of this seed and count can ever send."""
    plan = LoadProfile(URL("http://x/webhooks/gumlet"), None, count, seed)
    return {content_id(plan.source, canonical(document)) for _, events in plan.assets() for _, document in events}


class Chaos:
    """One scenario: its directory, its topics, its randomness, and the loads that it has started."""

    def __init__(self, scenario: str, directory: Path, bootstrap_servers: str, prefix: str, lines: list[Line]) -> None:
        self.scenario = scenario
        self.directory = directory
        self.bootstrap_servers = bootstrap_servers
        self.prefix = prefix
        self.long = LONG
        self.moments = random.Random(f"{SEED} {scenario}")
        self.sent_ids: set[str] = set()
        self.loads: list[Load] = []
        self._lines = lines
        self._began = time.monotonic()

    def bridge(self, bootstrap_servers: str = "", wrapper: Sequence[str] = (), **settings: Any) -> Daemon:
        """Return a daemon that is not started yet; `wrapper` is a command that runs it."""
        daemon = Daemon(self.directory, bootstrap_servers or self.bootstrap_servers, self.prefix, **settings)
        daemon.wrapper = wrapper
        return daemon

    def load(self, daemon: Daemon, count: int, **options: object) -> Load:
        """Start sending."""
        seed = zlib.crc32(f"{SEED} {self.scenario} {len(self.loads)}".encode())
        self.sent_ids |= ids(seed, count)
        # Patient: 48 attempts must outlast the fault, on a busy machine too.
        load = Load(daemon, self.directory, count, seed, **{"retry-after": 1.0, **options})
        self.loads.append(load)
        return load

    def past(self, daemon: Daemon, count: int = 1) -> None:
        """Wait until so many more deliveries are acknowledged; a load that has ended is followed by another."""
        if self.loads[-1].process.poll() is not None:
            self.load(daemon, self.scaled(1000, 2000), rate=500)  # a fault that meets no load proves nothing
        load = self.loads[-1]
        already = load.acknowledged_so_far()
        wait_for(lambda: load.acknowledged_so_far() >= already + count or load.process.poll() is not None)

    def scaled(self, short: int, long: int) -> int:
        """Return one of two sizes."""
        return long if self.long else short

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time."""
        time.sleep(self.moments.uniform(least, most))

    def line(self, **figures: Any) -> None:
        """Add the scenario's line to the table."""
        self._lines.append(Line(self.scenario, took=time.monotonic() - self._began, **figures))

    async def verdict(
        self,
        daemon: Daemon,
        earlier: Iterable[Kept] = (),
        note: str = "",
        forgiven: int = 0,
        backlog: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Let the loads end and the daemon drain, write the scenario's line, and assert the promise.

        `earlier` are records that were read before the scenario itself took them away. `forgiven` deliveries were
        destroyed on disk by the scenario itself, which no bridge can undo; that many may be missing, and no more.
        `backlog` was in the journal before the daemon started, in this order.
        """
        reports = [await asyncio.to_thread(load.finish, 300) for load in self.loads]
        began = time.monotonic()
        await asyncio.to_thread(wait_for, daemon.drained, DRAIN_SECONDS, "everything on Kafka")
        drain = time.monotonic() - began
        records = [*earlier, *await asyncio.to_thread(read_kept, self.bootstrap_servers, topics(self.prefix))]
        acknowledged = [*backlog, *(each for load in self.loads for each in load.acknowledged())]
        verdict = judge(acknowledged, records, self.sent_ids)
        refused: Counter[str] = Counter()
        for report in reports:
            refused.update(report["rejected"])
            refused["no answer"] += report["connection_errors"]
        self.line(
            sent=sum(report["sent"] for report in reports),
            acknowledged=verdict.acknowledged,
            refused=in_words(refused),
            published=verdict.published,
            repeated=max(0, verdict.repeated),
            lost=max(0, len(verdict.lost) - forgiven),
            silence=max((report["max_gap_seconds"] for report in reports), default=0.0),
            drain=drain,
            note=", ".join(filter(None, [note, f"{len(verdict.lost)} destroyed on disk" if forgiven else ""])),
        )
        assert len(verdict.lost) <= forgiven, f"{len(verdict.lost)} lost, for example {verdict.lost[:3]}"
        kept(verdict._replace(lost=[], disordered=[] if forgiven else verdict.disordered))
        dead = [record for record in records if record.topic == f"{self.prefix}dead-letter"]
        assert not dead, f"{len(dead)} good events became dead letters"


def in_words(refused: Mapping[str, int]) -> str:
    """Return how often what was answered in place of a 200."""
    return ", ".join(f"{answer}: {times}" for answer, times in sorted(refused.items()) if times) or "-"


def table(lines: Sequence[Line]) -> list[str]:
    """Return the table as text, a line a scenario."""
    heads = (
        "scenario",
        "sent",
        "ack'd",
        "refused",
        "published",
        "repeated",
        "lost",
        "took s",
        "silence s",
        "drain s",
        "note",
    )
    rows = [
        heads,
        *(tuple(f"{value:.1f}" if isinstance(value, float) else str(value) for value in line) for line in lines),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
