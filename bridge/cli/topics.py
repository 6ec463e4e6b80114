"""`gumlet-bridge topics`: Kafka's topics as the contract wants them, looked at, checked, made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from bridge.cli.output import ConfigFile
from bridge.config import settings as config
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.kafka.client import admin_client
from bridge.kafka.topics import ChangeRejected, Finding, apply, survey, wanted_topics
from bridge.operations.topic_reader import translate_kafka_errors

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path
    from typing import Any

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Kafka's topics: what the contract wants, what Kafka has, and making the two the same.",
)

PARTITION_WARNING = (
    "[yellow]More partitions move keys: from then on an asset's events can be on another partition than its "
    "earlier ones.[/]"
)


@app.command("list")
def list_topics(config_file: ConfigFile = None) -> None:
    """Show the topics that the contract has. Needs no Kafka.

    Example: `gumlet-bridge topics list`
    """
    settings, contract = _load(config_file)
    table = Table("topic", "key", "partitions", "replication", "configuration")
    keys = {topic.name: topic.key for topic in contract.topics.values()}
    for topic in wanted_topics(contract, settings.topics):
        table.add_row(
            topic.name,
            keys[topic.name] or "-",
            str(topic.partitions or "broker's default"),
            "broker's default" if topic.replication == -1 else str(topic.replication),
            "\n".join(f"{name}={value}" for name, value in sorted(topic.config.items())),
        )
    Console().print(table)


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Compare Kafka's topics with the contract; exit with 1 when they differ. Changes nothing.

    Example, before a deployment: `BRIDGE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 gumlet-bridge topics check`
    """
    settings, contract = _load(config_file)
    findings = _run_with_kafka(settings, _survey(settings, contract))
    if not findings:
        Console().print(f"All {len(contract.topics)} topics are as the contract says.")
        return
    Console().print(_differences(findings))
    raise typer.Exit(1)


@app.command("apply")
def apply_(
    config_file: ConfigFile = None,
    *,
    configure: Annotated[bool, typer.Option("--configure", help="Also set configuration that differs.")] = False,
    grow: Annotated[
        bool,
        typer.Option("--grow", help="Also add partitions that are too few: keys move to other partitions."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make the topics that are missing; change those that exist only where told to.

    Shows what it will do and asks first.

    Examples:
    - what would happen: `gumlet-bridge topics apply --dry-run`

    - from a script: `gumlet-bridge topics apply --yes`

    - with retention and cleanup as the contract says: `gumlet-bridge topics apply --configure`
    """
    settings, contract = _load(config_file)
    console = Console()
    findings = _run_with_kafka(settings, _survey(settings, contract))
    chosen = [finding for finding in findings if _applies(finding, configure=configure, grow=grow)]
    if left := [finding for finding in findings if finding not in chosen]:
        console.print(_differences(left, "stays as it is"))
    if not chosen:
        console.print("Nothing to change.")
        return
    console.print(_changes(chosen))
    if any(finding.kind == "partitions" for finding in chosen):
        console.print(PARTITION_WARNING)
    if dry_run:
        return
    if not yes:
        typer.confirm(f"Make these {len(chosen)} changes?", abort=True)
    refusals = _run_with_kafka(settings, _apply(settings, contract, chosen))
    if refusals:
        raise BridgeError("Kafka refused:\n" + "\n".join(map(str, refusals)))
    console.print(f"{len(chosen)} changes made.")


def _applies(finding: Finding, *, configure: bool, grow: bool) -> bool:
    if finding.kind == "partitions":
        return grow and int(finding.wanted) > int(finding.found)
    return finding.kind == "missing" or (finding.kind == "config" and configure)


def _load(config_file: Path | None) -> tuple[config.Settings, Contract]:
    settings = config.load(config_file)
    return settings, Contract.load(settings.topics.prefix)


async def _survey(settings: config.Settings, contract: Contract) -> list[Finding]:
    async with admin_client(settings.kafka) as admin:
        return await survey(admin, contract, settings.topics)


async def _apply(settings: config.Settings, contract: Contract, findings: Iterable[Finding]) -> list[ChangeRejected]:
    async with admin_client(settings.kafka) as admin:
        return await apply(admin, contract, settings.topics, findings)


def _run_with_kafka(settings: config.Settings, conversation: Coroutine[Any, Any, T]) -> T:
    """Run what needs Kafka; say in one line when it does not answer."""
    # aiokafka's own line on standard error stays: it alone tells a refused password from a Kafka that is away.
    with translate_kafka_errors(settings.kafka):
        return asyncio.run(conversation)


def _changes(findings: Iterable[Finding]) -> Table:
    table = Table("topic", "what", "now", "then", title="will change")
    for finding in findings:
        table.add_row(finding.topic, finding.subject, finding.found, finding.wanted)
    return table


def _differences(findings: Iterable[Finding], title: str = "differs from the contract") -> Table:
    table = Table("topic", "what", "Kafka has", "contract wants", "fix", title=title)
    for finding in findings:
        table.add_row(finding.topic, finding.subject, finding.found, finding.wanted, finding.fix)
    return table
