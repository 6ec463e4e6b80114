"""`gumlet-bridge journal drain`: what a journal holds goes to Kafka by the daemon's own parts, without a daemon."""

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
from bridge.operations.journal_reader import journal_path, viewing
from bridge.publisher.publisher import Publisher
from bridge.publisher.registry_encoder import create_encoder
from bridge.queue.journal import Journal
from bridge.queue.journal_file import FILE_NAME
from bridge.telemetry import logging as log
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bridge.config.settings import Settings

LIVENESS_POLL_SECONDS = 0.05
COLUMNS = ("topic", "deliveries")

Directory = Annotated[
    Path | None, typer.Option("--dir", help="The journal's directory.", show_default="BRIDGE_JOURNAL_DIR")
]


def drain(
    directory: Directory = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Give up after so many seconds in which Kafka took nothing.")
    ] = 60.0,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go where; publish nothing.")] = False,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Publish everything that a journal holds, in order, the parked deliveries too, and leave it empty.

    For a volume whose daemon does not come back. Kafka's settings are the daemon's. What is not on Kafka when it ends,
    for whatever reason, is still in the journal: run it again. A crash in between repeats some events, with their ids.

    Exit codes: 0 the journal is empty, 1 something is left (Kafka away, a topic that refuses), 75 a daemon holds the
    journal.

    Examples:
    `gumlet-bridge journal drain --dir /var/lib/bridge/journal --dry-run`

    `BRIDGE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 gumlet-bridge journal drain --dir /mnt/old-volume/journal`
    """
    settings = config.load(config_file)
    where = directory or settings.journal.dir
    contract = Contract.load(settings.topics.prefix)
    before, left = damaged(where), ""
    if dry_run:
        show_rows(_rows(_plan(where, Normalizer(contract))), COLUMNS, as_json=as_json)
    else:
        journal_path(where)  # a directory without one is a mistake, not an empty journal
        log.configure(settings.log)
        settings = settings.model_copy(update={"journal": settings.journal.model_copy(update={"dir": where})})
        counts, left = asyncio.run(_drain(settings, contract, timeout))
        show_rows(_rows(counts), COLUMNS, as_json=as_json)
    for path in damaged(where):
        typer.echo(
            f"{path} was set aside as damaged, and is not drained. Fix: `gumlet-bridge journal salvage`.", err=True
        )
    if left:
        raise BridgeError(left)
    if damaged(where) != before:
        raise typer.Exit(1)


def damaged(directory: Path) -> list[Path]:
    """Return the files that were set aside as damaged, oldest first."""
    return sorted(path for path in directory.glob(f"{FILE_NAME}.damaged-*") if not path.name.endswith(("-wal", "-shm")))


def _rows(counts: Counter[str]) -> list[dict[str, Any]]:
    return [{"topic": topic, "deliveries": count} for topic, count in sorted(counts.items())]


def _plan(directory: Path, normalizer: Normalizer) -> Counter[str]:
    with viewing(directory) as view:
        with progress("deliveries read", view.count()) as move_on:
            counts: Counter[str] = Counter()
            for held in view.held():
                move_on(1)
                counts[normalizer.event(held.delivery).topic] += 1
        if view.faults:
            raise BridgeError("\n".join([*view.faults, "Fix: the drain sets the file aside; then salvage it."]))
    return counts


async def _drain(settings: Settings, contract: Contract, patience: float) -> tuple[Counter[str], str]:
    """Publish until nothing is left, or nothing has left for `patience` seconds.

    Return what went where, and about what is left what to do; empty when nothing is.
    """
    client_options(settings.kafka)  # a certificate that cannot be read is told now
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
        left = journal.depth
        with progress("deliveries published", left) as move_on:
            async with publisher.running(0):
                deadline = time.monotonic() + patience
                while left and time.monotonic() < deadline:
                    await asyncio.sleep(LIVENESS_POLL_SECONDS)
                    if journal.depth < left:
                        move_on(left - journal.depth)
                        left, deadline = journal.depth, time.monotonic() + patience
        counts = publisher.summary.published
        if not left:
            return counts, ""
        if not publisher.connected:
            why = (
                f"Kafka at {settings.kafka.bootstrap_servers} took nothing for {patience:g} s. Fix: see that Kafka "
                "runs, then BRIDGE_KAFKA_BOOTSTRAP_SERVERS, _SECURITY_PROTOCOL, the credentials; a longer --timeout."
            )
        else:
            refusing = ", ".join(sorted(journal.parked)) or "no topic by name"
            why = f"refusing: {refusing}. Fix: `gumlet-bridge topics check`; the rights to Write; a longer --timeout."
        return counts, f"{left} deliveries are still in the journal: {why}"
