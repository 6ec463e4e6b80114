"""The framework of the fault-injection scenarios: a daemon under load, a fault, its repair, and a check.

A scenario starts daemons and loads with `Chaos.bridge` and `Chaos.load`, causes its fault, repairs it and ends with
`Chaos.verify`, which waits for the drain, checks the deliveries and adds a line to the result table. All randomness
comes from one seed (CHAOS_SEED), so a run can be repeated. `make chaos` runs the long form (CHAOS=long),
`make test-all` the short one.
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
from tests.support.delivery_checker import PublishedRecord, assert_no_loss, header, read_published, verify_delivery

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED", "1"))
DRAIN_SECONDS = 120.0


class ScenarioResult(NamedTuple):
    """A scenario's line in the result table."""

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
    """Return a node with a second listener, whose advertised port is the one that a proxy listens on."""
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
    node.properties["advertised.listeners"] = f"PLAINTEXT://{node.bootstrap_servers},PROXIED://127.0.0.1:{proxy}"
    return node


def proxy_ports(node: ApacheKafka) -> tuple[int, int]:
    """Return the port of the PROXIED listener that clients are given, and the one that the node listens on."""
    advertised = node.properties["advertised.listeners"].rpartition(":")[2]
    (listener,) = [entry for entry in node.properties["listeners"].split(",") if entry.startswith("PROXIED")]
    return int(advertised), int(listener.rpartition(":")[2])


def topics(prefix: str) -> list[str]:
    """Return every topic that a bridge with this prefix can publish to."""
    return [topic.name for topic in Contract.load(prefix).topics.values()]


def ids(seed: int, count: int) -> set[str]:
    """Return the ids of all events that a load of this seed and count can send."""
    plan = LoadProfile(URL("http://x/webhooks/gumlet"), None, count, seed)
    return {content_id(plan.source, canonical(document)) for _, events in plan.assets() for _, document in events}


class Chaos:
    """One scenario: its directory, its topics, its random numbers, and the loads that it has started."""

    def __init__(
        self, scenario: str, directory: Path, bootstrap_servers: str, prefix: str, results: list[ScenarioResult]
    ) -> None:
        self.scenario = scenario
        self.directory = directory
        self.bootstrap_servers = bootstrap_servers
        self.prefix = prefix
        self.long = LONG
        self.random = random.Random(f"{SEED} {scenario}")
        self.sent_ids: set[str] = set()
        self.loads: list[Load] = []
        self._results = results
        self._began = time.monotonic()

    def bridge(self, bootstrap_servers: str = "", wrapper: Sequence[str] = (), **settings: Any) -> Daemon:
        """Return a daemon that is not started yet; `wrapper` is a command that runs it."""
        daemon = Daemon(self.directory, bootstrap_servers or self.bootstrap_servers, self.prefix, **settings)
        daemon.wrapper = wrapper
        return daemon

    def load(self, daemon: Daemon, count: int, **options: object) -> Load:
        """Start a load."""
        seed = zlib.crc32(f"{SEED} {self.scenario} {len(self.loads)}".encode())
        self.sent_ids |= ids(seed, count)
        # The 48 attempts must outlast the fault, also on a busy machine.
        load = Load(daemon, self.directory, count, seed, **{"retry-after": 1.0, **options})
        self.loads.append(load)
        return load

    def wait_for_acknowledged(self, daemon: Daemon, count: int = 1) -> None:
        """Wait until `count` more deliveries are acknowledged; start another load if the last one has ended."""
        if self.loads[-1].process.poll() is not None:
            self.load(daemon, self.scaled(1000, 2000), rate=500)  # without load the fault would prove nothing
        load = self.loads[-1]
        already = load.acknowledged_so_far()
        wait_for(lambda: load.acknowledged_so_far() >= already + count or load.process.poll() is not None)

    def scaled(self, short: int, long: int) -> int:
        """Return one of two sizes."""
        return long if self.long else short

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time."""
        time.sleep(self.random.uniform(least, most))

    def add_result(self, **figures: Any) -> None:
        """Add the scenario's line to the result table."""
        self._results.append(ScenarioResult(self.scenario, took=time.monotonic() - self._began, **figures))

    async def verify(  # noqa: PLR0913 - what a scenario may have caused, by name
        self,
        daemon: Daemon,
        *,
        earlier: Iterable[PublishedRecord] = (),
        note: str = "",
        allowed_losses: int = 0,
        backlog: Iterable[dict[str, Any]] = (),
        invalid: Iterable[bytes] = (),
    ) -> None:
        """Wait for the loads and the drain, add the scenario's result, and assert the promise.

        `earlier` are records that were read before the scenario deleted them. `allowed_losses` is the number of
        deliveries that the scenario itself destroyed on disk: at most that many may be missing. `backlog` was in the
        journal before the daemon started, in this order. `invalid` are bodies that were acknowledged and that
        must be dead letters, the only ones.
        """
        reports = [await asyncio.to_thread(load.finish, 300) for load in self.loads]
        began = time.monotonic()
        await asyncio.to_thread(wait_for, daemon.drained, DRAIN_SECONDS, "the drain")
        drain = time.monotonic() - began
        records = [*earlier, *await asyncio.to_thread(read_published, self.bootstrap_servers, topics(self.prefix))]
        acknowledged = [*backlog, *(each for load in self.loads for each in load.acknowledged())]
        invalid_ids = {content_id("default", body) for body in invalid}
        acknowledged += [{"id": each, "type": "dead-letter", "asset_id": each} for each in invalid_ids]
        self.sent_ids |= invalid_ids
        check = verify_delivery(acknowledged, records, self.sent_ids)
        refused: Counter[str] = Counter()
        for report in reports:
            refused.update(report["rejected"])
            refused["no answer"] += report["connection_errors"]
        self.add_result(
            sent=sum(report["sent"] for report in reports),
            acknowledged=check.acknowledged,
            refused=format_counts(refused),
            published=check.published,
            repeated=max(0, check.repeated),
            lost=max(0, len(check.lost) - allowed_losses),
            silence=max((report["max_gap_seconds"] for report in reports), default=0.0),
            drain=drain,
            note=", ".join(filter(None, [note, f"{len(check.lost)} destroyed on disk" if allowed_losses else ""])),
        )
        assert len(check.lost) <= allowed_losses, f"{len(check.lost)} lost, for example {check.lost[:3]}"
        assert_no_loss(check._replace(lost=[], disordered=[] if allowed_losses else check.disordered))
        dead = {header(record, "ce_id") for record in records if record.topic == f"{self.prefix}dead-letter"}
        assert dead == invalid_ids, f"{len(dead - invalid_ids)} good events became dead letters"


def format_counts(refused: Mapping[str, int]) -> str:
    """Return the counts of responses other than 200 as text."""
    return ", ".join(f"{answer}: {times}" for answer, times in sorted(refused.items()) if times) or "-"


def table(results: Sequence[ScenarioResult]) -> list[str]:
    """Return the lines of the result table."""
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
        *(tuple(f"{value:.1f}" if isinstance(value, float) else str(value) for value in line) for line in results),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
