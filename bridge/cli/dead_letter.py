"""`gumlet-bridge dead-letter`: what could not be published, why, and publishing it once the cause is mended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bridge.cli.filters import AssetId, DeliveryFilter, EventType, Reason, Since, Until, chosen
from bridge.cli.output import AsJson, ConfigFile, Output, export_lines, piped, progress, show_rows, write_line
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import DEAD_LETTER, Contract
from bridge.errors import BridgeError
from bridge.operations.dead_letters import DeadLetter
from bridge.operations.one_shot_producer import send_all, sender_of
from bridge.operations.topic_reader import open_reader
from bridge.publisher.producer import OutgoingEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.config.settings import Settings
    from bridge.event import Event
    from bridge.publisher.producer import Sender

CHUNK = 200
"""How many are sent at once."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The dead-letter topic: look at it, and publish what is in it once the cause is mended.",
)

KnownAs = Annotated[str | None, typer.Option("--id", help="The event's id, or its place: PARTITION/OFFSET.")]


@app.command("list")
def list_(  # noqa: PLR0913, PLR0917 - one parameter for each option
    since: Since = None,
    until: Until = None,
    event_type: EventType = None,
    asset: AssetId = None,
    reason: Reason = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """List dead letters, oldest first in each partition, without their bodies.

    Examples:
    `gumlet-bridge dead-letter list --since 2h`

    `gumlet-bridge dead-letter list --reason schema_violation | jq -r .pointer | sort | uniq -c`
    """
    settings = config.load(config_file)
    letters = asyncio.run(_collect(settings, chosen(since, until, event_type, asset, reason)))
    columns = ("place", "received_at", "reason", "event_type", "asset_id", "pointer", "detail")
    show_rows((each.line() for each in letters), columns, as_json=as_json)


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or its place: PARTITION/OFFSET.")],
    config_file: ConfigFile = None,
) -> None:
    """Show a dead letter whole, with its body. Ends with 1 when there is none.

    Example: `gumlet-bridge dead-letter show 0/17`
    """
    letters = asyncio.run(_collect(config.load(config_file), DeliveryFilter(event_id=event_id)))
    if not letters:
        raise BridgeError(
            f"{event_id}: no such dead letter. Fix: take an id or a place from `gumlet-bridge dead-letter list`."
        )
    for letter in letters:
        typer.echo(orjson.dumps(letter.whole(), option=orjson.OPT_INDENT_2).decode())


@app.command()
def export(  # noqa: PLR0913, PLR0917 - one parameter for each option
    output: Output = None,
    since: Since = None,
    until: Until = None,
    event_type: EventType = None,
    asset: AssetId = None,
    reason: Reason = None,
    config_file: ConfigFile = None,
) -> None:
    """Write dead letters with their bodies as JSON lines.

    Example: `gumlet-bridge dead-letter export --since 7d -o dead-letters.jsonl`
    """
    letters = asyncio.run(_collect(config.load(config_file), chosen(since, until, event_type, asset, reason)))
    export_lines((letter.whole() for letter in letters), output, "dead letters")


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - one parameter for each option
    since: Since = None,
    until: Until = None,
    event_type: EventType = None,
    asset: AssetId = None,
    reason: Reason = None,
    event_id: KnownAs = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would become of each; publish nothing.")
    ] = False,
    config_file: ConfigFile = None,
) -> None:
    """Give dead letters to today's normalizer and publish what it makes of them.

    Each event has the id and the receipt time that it would have had at first, so one that is replayed twice is a
    repeat that consumers know. What is still a dead letter stays where it is. Dead letters are not removed. One that
    is older than its topic keeps records is published with a note: Kafka removes it again soon, so have its consumers
    running, or raise the topic's retention.ms first.
    Ends with 1 when some could not be published.

    Examples:
    `gumlet-bridge dead-letter replay --dry-run`

    `gumlet-bridge dead-letter replay --reason schema_violation --type video.status.ready --since 7d`
    """
    settings = config.load(config_file)
    outcome = asyncio.run(
        _replay(settings, chosen(since, until, event_type, asset, reason, event_id), publish=not dry_run)
    )
    if not piped():
        show_rows(outcome.rows, ("place", "id", "topic", "outcome", "kafka", "reason", "detail", "note"), as_json=False)
    verb = "would be published" if dry_run else "published"
    typer.echo(
        f"{outcome.published} {verb}, {outcome.dead} still dead, {outcome.failed} refused by Kafka.",
        err=True,
    )
    if outcome.dead or outcome.failed:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Outcome:
    published: int = 0
    dead: int = 0
    failed: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, row: dict[str, Any]) -> None:
        """Print a line at once where a program reads; for people keep it for the table."""
        if piped():
            write_line(row)
        else:
            self.rows.append(row)


async def _letters(settings: Settings, wanted: DeliveryFilter) -> AsyncIterator[DeadLetter]:
    topic = f"{settings.topics.prefix}{DEAD_LETTER}"
    async with open_reader(settings.kafka, [topic]) as reader:
        if not reader.topics:
            raise BridgeError(
                f"Kafka has no topic {topic}. Fix: BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
        with progress("dead letters read", await reader.count()) as move_on:
            async for record in reader.records(wanted.since if wanted.since is not None else "beginning"):
                move_on(1)
                letter = DeadLetter.of(record)
                if letter and wanted.takes(letter.delivery.received_ms, letter.about, (letter.id, letter.place)):
                    yield letter


async def _collect(settings: Settings, wanted: DeliveryFilter) -> list[DeadLetter]:
    return [letter async for letter in _letters(settings, wanted)]


async def _replay(settings: Settings, wanted: DeliveryFilter, *, publish: bool) -> _Outcome:
    contract = Contract.load(settings.topics.prefix)
    normalizer = Normalizer(contract)
    sender = await sender_of(settings, contract)
    outcome = _Outcome()
    chunk: list[tuple[DeadLetter, OutgoingEvent]] = []
    try:
        async for letter in _letters(settings, wanted):
            event = normalizer.event(letter.delivery)
            if event.event_type == DEAD_LETTER:
                outcome.dead += 1
                outcome.tell(letter.line() | {"outcome": "still dead", **_why(event.value)})
                continue
            chunk.append((letter, OutgoingEvent(event, letter.delivery)))
            if len(chunk) >= CHUNK:
                await _publish(sender, chunk, outcome, contract, publish=publish)
                chunk.clear()
        await _publish(sender, chunk, outcome, contract, publish=publish)
    finally:
        await sender.close()
    return outcome


def _why(value: bytes) -> dict[str, Any]:
    found = orjson.loads(value)
    return {name: found[name] for name in ("reason", "detail", "pointer") if name in found}


def _retention_warning(event: Event, contract: Contract) -> dict[str, str]:
    """Return a note where Kafka would remove a record as soon as it has it: its time is that of its receipt."""
    kept_ms = int(contract.topics[event.event_type].config.get("retention.ms", "-1"))
    outlived = 0 < kept_ms < time.time() * 1000 - event.received_ms
    return {"note": "older than its topic keeps records: Kafka removes it soon"} if outlived else {}


async def _publish(
    sender: Sender,
    chunk: list[tuple[DeadLetter, OutgoingEvent]],
    outcome: _Outcome,
    contract: Contract,
    *,
    publish: bool,
) -> None:
    words = await send_all(sender, [prepared for _, prepared in chunk]) if publish else {}
    for letter, prepared in chunk:
        refusal = words.get(id(prepared))
        said = {"outcome": "would be published"} if not publish else {"outcome": "published"}
        if refusal is not None:
            said = {"outcome": "refused", "kafka": refusal}
            outcome.failed += 1
        else:
            outcome.published += 1
        event = prepared.event
        outcome.tell(
            {"place": letter.place, "id": event.id, "topic": event.topic} | said | _retention_warning(event, contract)
        )
