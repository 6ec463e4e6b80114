"""`gumlet-bridge topics`: lists the contract's topics, compares them with Kafka, creates and updates them.

Input: settings, the contract, Kafka. Output: tables; exit code 1 when a check finds a difference.
Invariants: `list` needs no Kafka; `check` changes nothing; `apply` changes only what the user has seen and accepted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bridge.cli.output import ConfigFile
from bridge.config import settings as config
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.kafka.connection import kafka_client
from bridge.kafka.provisioning import ChangeRejected, apply_changes, is_addition
from bridge.kafka.topics import TopicDifference, desired_topics, diff_topics
from bridge.operations.topic_reader import find_mixed_formats, translate_kafka_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="List the contract's topics, compare them with Kafka, create and update them.",
)

PARTITION_WARNING = (
    "[yellow]Adding partitions assigns keys to other partitions: from then on an asset's events can be in another "
    "partition than its earlier ones.[/]"
)


@app.command("list")
def list_topics(config_file: ConfigFile = None) -> None:
    """List the topics of the contract. Needs no Kafka.

    Example: `gumlet-bridge topics list`
    """
    settings, contract = _load(config_file)
    table = Table("topic", "key", "partitions", "replication", "configuration")
    keys = {topic.name: topic.key for topic in contract.topics.values()}
    for topic in desired_topics(contract, settings):
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
    """Compare the topics on Kafka with the contract. Changes nothing.

    Compares partitions, replication, configuration, this user's access and the maximum record size; warns about a
    topic whose records are in more than one wire format. Exits with 1 if there is a difference.

    Example, before a deployment: `BRIDGE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 gumlet-bridge topics check`
    """
    settings, contract = _load(config_file)
    differences = _compare(settings, contract)
    existing = {topic.name for topic in contract.topics.values()} - {
        difference.topic for difference in differences if difference.kind in ("missing", "access", "unreadable")
    }
    for topic, formats in asyncio.run(find_mixed_formats(settings.kafka, existing)).items():
        typer.echo(
            f"Warning: {topic} has records in the wire formats {' and '.join(formats)}. Consumers with a registry's "
            "deserializer fail at plain records. Fix: let the plain records expire, or use a new topic.",
            err=True,
        )
    if not differences:
        Console().print(f"All {len(contract.topics)} topics match the contract.")
        return
    Console().print(_differences(differences))
    raise typer.Exit(1)


@app.command("apply")
def apply_(
    config_file: ConfigFile = None,
    *,
    update_config: Annotated[
        bool, typer.Option("--update-config", help="Also set configuration entries that differ.")
    ] = False,
    add_partitions: Annotated[
        bool,
        typer.Option("--add-partitions", help="Also add missing partitions: keys are assigned to other partitions."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes, apply none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Apply without asking.")] = False,
) -> None:
    """Create missing topics; modify existing ones only with --update-config or --add-partitions.

    Shows the changes and asks before it applies them.

    Examples:
    - show the changes: `gumlet-bridge topics apply --dry-run`

    - in a script: `gumlet-bridge topics apply --yes`

    - set retention and cleanup to the contract's values: `gumlet-bridge topics apply --update-config`
    """
    settings, contract = _load(config_file)
    console = Console()
    differences = _compare(settings, contract)
    chosen = [
        difference
        for difference in differences
        if difference.kind == "missing"
        or (difference.kind == "config" and update_config)
        or (is_addition(difference) and add_partitions)
    ]
    if remaining := [difference for difference in differences if difference not in chosen]:
        console.print(_differences(remaining, "not changed"))
    if not chosen:
        console.print("Nothing to change.")
        return
    console.print(_changes(chosen))
    if any(is_addition(difference) for difference in chosen):
        console.print(PARTITION_WARNING)
    if dry_run:
        return
    if not yes:
        typer.confirm(f"Apply {len(chosen)} changes? (--yes skips this question)", abort=True)
    with translate_kafka_errors(settings.kafka):
        rejected = asyncio.run(_apply(settings, contract, chosen))
    if rejected:
        raise BridgeError("Kafka rejected changes:\n" + "\n".join(map(str, rejected)))
    console.print(f"{len(chosen)} changes applied.")


def _load(config_file: Path | None) -> tuple[config.Settings, Contract]:
    settings = config.load(config_file)
    return settings, Contract.load(settings.topics.prefix)


def _compare(settings: config.Settings, contract: Contract) -> list[TopicDifference]:
    async def compare() -> list[TopicDifference]:
        async with kafka_client(settings.kafka) as client:
            return (await diff_topics(client, contract, settings)).differences

    with translate_kafka_errors(settings.kafka):
        return asyncio.run(compare())


async def _apply(
    settings: config.Settings, contract: Contract, differences: Iterable[TopicDifference]
) -> list[ChangeRejected]:
    async with kafka_client(settings.kafka) as client:
        return await apply_changes(client, contract, settings, differences)


def _changes(differences: Iterable[TopicDifference]) -> Table:
    table = Table("topic", "subject", "now", "new", title="changes")
    for difference in differences:
        table.add_row(difference.topic, difference.subject, difference.actual, difference.desired)
    return table


def _differences(differences: Iterable[TopicDifference], title: str = "differences from the contract") -> Table:
    table = Table("topic", "subject", "Kafka has", "contract requires", "fix", title=title)
    for difference in differences:
        table.add_row(difference.topic, difference.subject, difference.actual, difference.desired, difference.fix)
    return table
