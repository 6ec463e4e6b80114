"""`gumlet-bridge topics`: lists the contract's topics, compares them with Kafka, creates and updates them.

Input: settings, the contract, Kafka. Output: tables; exit code 1 when a check finds a difference.
Invariants: `list` needs no Kafka; `check` changes nothing; `apply` changes only what the user has seen and accepted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.output import AsJson, ConfigFile, DryRun, Yes, confirm, echo, make_app, show_rows
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

app = make_app("List the contract's topics, compare them with Kafka, create and update them.")

COLUMNS = ("topic", "subject", "actual", "desired", "fix")
PARTITION_WARNING = (
    "Adding partitions assigns keys to other partitions: from then on an asset's events can be in another partition "
    "than its earlier ones."
)


@app.command("list")
def list_topics(config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """List the topics of the contract. Needs no Kafka.

    Example: `gumlet-bridge topics list`
    """
    settings, contract = _load(config_file)
    keys = {topic.name: topic.key for topic in contract.topics.values()}
    rows = [
        {
            "topic": topic.name,
            "key": keys[topic.name],
            "partitions": topic.partitions or "broker's default",
            "replication": "broker's default" if topic.replication == -1 else topic.replication,
            "configuration": [f"{name}={value}" for name, value in sorted(topic.config.items())],
        }
        for topic in desired_topics(contract, settings)
    ]
    show_rows(rows, ("topic", "key", "partitions", "replication", "configuration"), as_json=as_json)


@app.command()
def check(config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
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
        echo(
            f"Warning: {topic} has records in the wire formats {' and '.join(formats)}. Consumers with a registry's "
            "deserializer fail at plain records. Fix: let the plain records expire, or use a new topic."
        )
    if not differences:
        echo(f"All {len(contract.topics)} topics match the contract.")
        return
    show_rows(_rows(differences), COLUMNS, as_json=as_json, title="differences from the contract")
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
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Create missing topics; modify existing ones only with --update-config or --add-partitions.

    Shows the changes and asks before it applies them.

    Examples:
    - show the changes: `gumlet-bridge topics apply --dry-run`

    - in a script: `gumlet-bridge topics apply --yes`

    - set retention and cleanup to the contract's values: `gumlet-bridge topics apply --update-config`
    """
    settings, contract = _load(config_file)
    # That this user may not publish does not concern the topics.
    differences = [difference for difference in _compare(settings, contract) if difference.subject != "access"]
    chosen = [
        difference
        for difference in differences
        if difference.kind == "missing"
        or (difference.kind == "config" and update_config)
        or (is_addition(difference) and add_partitions)
    ]
    if remaining := [difference for difference in differences if difference not in chosen]:
        show_rows(_rows(remaining), COLUMNS, as_json=False, title="not changed")
        hidden = ("access", "unreadable") if update_config else ("access",)
        if any(difference.kind in hidden for difference in remaining):
            raise BridgeError("This user may not see all that is compared. Fix: allow what the rows above name.")
    if not chosen:
        echo("Nothing to change.")
        return
    show_rows(_rows(chosen), COLUMNS[:-1], as_json=False, title="changes")
    if any(is_addition(difference) for difference in chosen):
        echo(PARTITION_WARNING, style="yellow")
    if dry_run:
        return
    confirm(f"Apply {len(chosen)} changes?", yes=yes)
    with translate_kafka_errors(settings.kafka):
        rejected = asyncio.run(_apply(settings, contract, chosen))
    if rejected:
        raise BridgeError("Kafka rejected changes:\n" + "\n".join(map(str, rejected)))
    echo(f"{len(chosen)} changes applied.")


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


def _rows(differences: Iterable[TopicDifference]) -> list[dict[str, object]]:
    return [difference._asdict() for difference in differences]
