"""`gumlet-bridge journal drain`: publishes a journal to Kafka with the daemon's own parts, without a daemon."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import AsJson, ConfigFile, progress, show_rows
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.kafka.client import client_options
from bridge.kafka.provisioning import TopicProvisioner
from bridge.operations.journal_reader import open_reader
from bridge.publisher.publisher import Publisher
from bridge.publisher.registry_encoder import create_encoder
from bridge.queue.journal import Journal
from bridge.telemetry import logging as log
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bridge.config.settings import Settings

POLL_SECONDS = 0.05
COLUMNS = ("topic", "deliveries")
EMPTY = "The journal is empty: everything is on Kafka."

Directory = Annotated[
    Path | None, typer.Option("--dir", help="The journal's directory.", show_default="BRIDGE_JOURNAL_DIR")
]


def drain(
    directory: Directory = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Exit after this many seconds without progress.")] = 60.0,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the topics and counts; publish nothing.")] = False,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Publish all pending deliveries of a journal, in order, the parked ones too, and leave it empty.

    For a volume whose daemon does not return. Kafka's settings are the daemon's. A delivery that is not on Kafka when
    the command ends stays in the journal: run it again. A crash repeats some events, with the same ids.

    Exit codes: 0 the journal is empty; 1 deliveries remain (Kafka unavailable, a topic blocked), or some were lost to
    damage; 75 a daemon holds the journal.

    Examples:
    - `gumlet-bridge journal drain --dir /var/lib/bridge/journal --dry-run`

    - `BRIDGE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 gumlet-bridge journal drain --dir /mnt/old-volume/journal`
    """
    settings = config.load(config_file)
    where = directory or settings.journal.dir
    contract = Contract.load(settings.topics.prefix)
    if dry_run:
        show_rows(_rows(_plan(where, Normalizer(contract))), COLUMNS, as_json=as_json, empty=EMPTY)
        return
    with open_reader(where) as reader:  # a directory without a journal is a mistake, not an empty journal
        before = reader.quarantined()
    log.configure(settings.log)
    settings = settings.model_copy(update={"journal": settings.journal.model_copy(update={"dir": where})})
    counts, problem = asyncio.run(_drain(settings, contract, timeout))
    show_rows(_rows(counts), COLUMNS, as_json=as_json, empty=EMPTY)
    if problem:
        raise BridgeError(problem)
    with open_reader(where) as reader:
        if new := [path for path in reader.quarantined() if path not in before]:
            raise BridgeError(
                f"the journal is empty, but parts of it were damaged: see the log above, and the {len(new)} new files "
                f"in {new[0].parent}."
            )


def _rows(counts: Counter[str]) -> list[dict[str, Any]]:
    return [{"topic": topic, "deliveries": count} for topic, count in sorted(counts.items())]


def _plan(directory: Path, normalizer: Normalizer) -> Counter[str]:
    with open_reader(directory) as reader:
        counts: Counter[str] = Counter()
        with progress("deliveries read", reader.count()) as advance:
            for entry in reader.entries():
                advance(1)
                counts[normalizer.event(entry.delivery).topic] += 1
        if reader.problems:
            raise BridgeError("\n".join([*map(str, reader.problems), "Fix: the drain publishes everything else."]))
    return counts


async def _drain(settings: Settings, contract: Contract, idle_seconds: float) -> tuple[Counter[str], str]:
    """Publish until nothing is pending, or nothing was published for `idle_seconds`.

    Return the published events of each topic, and what to do about the rest; empty when nothing remains.
    """
    client_options(settings.kafka)  # an unreadable certificate fails here
    metrics = Metrics()
    async with Journal.open(settings.journal, metrics, settings.queue) as journal:
        publisher = Publisher(
            journal,
            Normalizer(contract),
            settings.kafka,
            metrics,
            provision=TopicProvisioner(settings, contract).ensure_topics,
            encoder=create_encoder(settings.registry, contract),
        )
        remaining = journal.depth
        with progress("deliveries published", remaining) as advance:
            async with publisher.running(0):
                deadline = time.monotonic() + idle_seconds
                while remaining and time.monotonic() < deadline:
                    await asyncio.sleep(POLL_SECONDS)
                    if journal.depth < remaining:
                        advance(remaining - journal.depth)
                        remaining, deadline = journal.depth, time.monotonic() + idle_seconds
        counts = publisher.summary.published
        if not remaining:
            return counts, ""
        if not publisher.connected:
            reason = (
                f"Kafka at {settings.kafka.bootstrap_servers} confirmed nothing for {idle_seconds:g} s. Fix: check "
                "that Kafka runs, then BRIDGE_KAFKA_BOOTSTRAP_SERVERS, _SECURITY_PROTOCOL, the credentials; a longer "
                "--timeout."
            )
        else:
            blocked = ", ".join(sorted(journal.parked)) or "no topic by name"
            reason = f"blocked: {blocked}. Fix: `gumlet-bridge topics check`; the rights to Write; a longer --timeout."
        return counts, f"{remaining} deliveries are still in the journal: {reason}"
