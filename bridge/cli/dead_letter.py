"""`gumlet-bridge dead-letter`: list and show dead letters, and republish them once the cause is fixed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bridge.cli.filters import DeliveryFilter, with_filter_options
from bridge.cli.output import (
    AsJson,
    ConfigFile,
    DryRun,
    Output,
    echo,
    export_lines,
    is_piped,
    make_app,
    progress,
    show_rows,
    write_document,
    write_line,
)
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import DEAD_LETTER, Contract
from bridge.errors import BridgeError
from bridge.operations.one_shot_producer import open_producer, send_all
from bridge.operations.record_view import DeadLetter, describe_dead_letter
from bridge.operations.topic_reader import open_reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.config.settings import Settings
    from bridge.event import Delivery, Event
    from bridge.publisher.sending import BatchProducer

CHUNK = 200
"""Events per send."""
EMPTY = "The dead-letter topic has no records."

app = make_app("The dead-letter topic: list, show, and republish once the cause is fixed.")


@app.command("list")
@with_filter_options
def list_(
    *,
    wanted: DeliveryFilter,
    with_body: Annotated[bool, typer.Option("--with-body", help="Include the bodies; implies JSON lines.")] = False,
    output: Output = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """List dead letters, oldest first. Reads the dead-letter topic; changes nothing.

    A body that is neither JSON nor text is in `body_base64`.

    Examples:
    - `gumlet-bridge dead-letter list --since 2h`

    - `gumlet-bridge dead-letter list --reason schema_violation | jq -r .pointer | sort | uniq -c`

    - `gumlet-bridge dead-letter list --since 7d --with-body --output dead-letters.jsonl`
    """
    letters = asyncio.run(_collect(config.load(config_file), wanted))
    if with_body or output is not None:
        export_lines((letter.to_dict(with_body=with_body) for letter in letters), output, "dead letters")
        return
    if as_json or is_piped():
        rows = [letter.to_dict() for letter in letters]
    else:
        rows = [{**letter.to_dict(), "reason": describe_dead_letter(letter.metadata)} for letter in letters]
    show_rows(
        rows,
        ("offset", "received_at", "event_type", "asset_id", "reason"),
        as_json=as_json,
        empty=EMPTY if wanted == DeliveryFilter() else "No dead letters match these filters.",
    )


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or PARTITION/OFFSET from `list`.")],
    *,
    config_file: ConfigFile = None,
) -> None:
    """Show a dead letter with its body. Reads the dead-letter topic; changes nothing. Exit code 1: it does not exist.

    Example: `gumlet-bridge dead-letter show 0/17`
    """
    letters = asyncio.run(_collect(config.load(config_file), DeliveryFilter(event_id=event_id)))
    if not letters:
        raise BridgeError(f"No dead letter {event_id}. Fix: an id or an offset from `gumlet-bridge dead-letter list`.")
    for letter in letters:
        write_document(letter.to_dict(with_body=True))


@app.command()
@with_filter_options
def replay(
    *,
    wanted: DeliveryFilter,
    event_id: Annotated[str | None, typer.Option("--id", help="The event's id, or PARTITION/OFFSET.")] = None,
    dry_run: DryRun = False,
    config_file: ConfigFile = None,
) -> None:
    """Normalize dead letters again with the current version, and publish the events.

    Each event has the id and receipt time that it would have had originally, so consumers recognize a duplicate.
    Dead letters stay on their topic: a second replay publishes the same events again, with the same ids. An event that
    is older than its topic's retention is published with a note, because Kafka deletes it soon: raise the topic's
    retention.ms first, or have its consumers running. Exit code 1: some could not be published.

    Examples:
    - `gumlet-bridge dead-letter replay --dry-run`

    - `gumlet-bridge dead-letter replay --reason schema_violation --type video.status.ready --since 7d`
    """
    settings = config.load(config_file)
    wanted = replace(wanted, event_id=event_id)
    outcome = asyncio.run(_replay(settings, wanted, publish=not dry_run))
    if not is_piped():
        columns = ("offset", "id", "topic", "outcome", "kafka", "reason", "note")
        show_rows(outcome.rows, columns, as_json=False, empty="No dead letters match these filters.")
    verb = "would be published" if dry_run else "published"
    echo(f"{outcome.published} {verb}, {outcome.invalid} still invalid, {outcome.failed} rejected by Kafka.")
    if outcome.invalid or outcome.failed:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Outcome:
    published: int = 0
    invalid: int = 0
    failed: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Print a row at once for a program; keep it for the table otherwise."""
        if is_piped():
            write_line(row)
        else:
            self.rows.append(row)


async def _letters(settings: Settings, wanted: DeliveryFilter) -> AsyncIterator[DeadLetter]:
    topic = f"{settings.topics.prefix}{DEAD_LETTER}"
    async with open_reader(settings.kafka, [topic]) as reader:
        if not reader.topics:
            raise BridgeError(
                f"Topic {topic} does not exist on Kafka. Fix: BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
        with progress("dead letters read", await reader.count()) as advance:
            async for record in reader.records(wanted.since if wanted.since is not None else "beginning"):
                advance(1)
                letter = DeadLetter.from_record(record)
                if letter and wanted.matches(
                    letter.delivery.received_ms, letter.metadata, (letter.event_id, letter.offset)
                ):
                    yield letter


async def _collect(settings: Settings, wanted: DeliveryFilter) -> list[DeadLetter]:
    return [letter async for letter in _letters(settings, wanted)]


async def _replay(settings: Settings, wanted: DeliveryFilter, *, publish: bool) -> _Outcome:
    contract = Contract.load(settings.topics.prefix)
    normalizer = Normalizer(contract)
    outcome = _Outcome()
    chunk: list[tuple[DeadLetter, Event]] = []
    async with open_producer(settings, contract) as producer:
        async for letter in _letters(settings, wanted):
            event = normalizer.event(letter.delivery)
            if event.event_type == DEAD_LETTER:
                outcome.invalid += 1
                outcome.add(letter.to_dict() | {"outcome": "still invalid"} | _rejection(event.value))
                continue
            chunk.append((letter, event))
            if len(chunk) >= CHUNK:
                await _publish(producer, chunk, outcome, contract, publish=publish)
                chunk.clear()
        await _publish(producer, chunk, outcome, contract, publish=publish)
    return outcome


def _rejection(value: bytes) -> dict[str, Any]:
    """Return why a delivery is invalid: separate properties for a program, one sentence for people."""
    found = orjson.loads(value)
    if is_piped():
        return {name: found[name] for name in ("reason", "detail", "pointer") if name in found}
    return {"reason": describe_dead_letter(found)}


def _retention_warning(event: Event, contract: Contract) -> dict[str, str]:
    """Return a note when an event is older than its topic's retention: its record time is the time of receipt."""
    retention_ms = int(contract.topics[event.event_type].config.get("retention.ms", "-1"))
    expired = 0 < retention_ms < time.time() * 1000 - event.received_ms
    return {"note": "older than its topic's retention: Kafka deletes it soon"} if expired else {}


async def _publish(
    producer: BatchProducer,
    chunk: list[tuple[DeadLetter, Event]],
    outcome: _Outcome,
    contract: Contract,
    *,
    publish: bool,
) -> None:
    pairs: list[tuple[Event, Delivery]] = [(event, letter.delivery) for letter, event in chunk]
    errors = await send_all(producer, pairs) if publish else {}
    for position, (letter, event) in enumerate(chunk):
        refusal = errors.get(position)
        result = {"outcome": "published" if publish else "would be published"}
        if refusal is not None:
            result = {"outcome": "rejected", "kafka": refusal}
            outcome.failed += 1
        else:
            outcome.published += 1
        outcome.add(
            {"offset": letter.offset, "id": event.id, "topic": event.topic}
            | result
            | _retention_warning(event, contract)
        )
