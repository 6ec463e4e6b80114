"""`gumlet-bridge reconcile`: publishes events that Gumlet failed to deliver, from the current state of its API."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import (
    AsJson,
    ConfigFile,
    DryRun,
    Yes,
    confirm,
    echo,
    is_piped,
    make_app,
    parse_time,
    progress,
    show_rows,
)
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.operations.one_shot_producer import open_producer, send_all
from bridge.operations.reconciliation import (
    MissingEvent,
    PublishedIndex,
    build_event,
    find_in_asset_lists,
    find_in_history,
    sort_by_finality,
)
from bridge.operations.topic_reader import open_reader
from bridge.webhook import DEFAULT_SOURCE, WEBHOOK_PATH, source_in_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge.config.settings import Settings
    from bridge.event import Delivery, Event

COLUMNS = ("asset_id", "type", "reason", "outcome")
UNRECOVERABLE = "unrecoverable: the asset is no longer in that state"
CHUNK = 50
"""Events per send."""

app = make_app()


@app.command()
def reconcile(  # noqa: PLR0913 - one parameter for each option
    *,
    webhook: Annotated[
        list[str] | None, typer.Option(help="Id of a webhook at Gumlet. Default: every webhook with a bridge's URL.")
    ] = None,
    since: Annotated[str, typer.Option(help="Compare events and assets from then on: 2d, 7d, 2026-01-31.")] = "7d",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Publish events that Gumlet never delivered, after an outage of more than its 24 hours of retries.

    Compares the webhooks' history and the asset lists of Gumlet's API with Kafka. A missing final state (ready,
    errored, deleted, repackaged) is published from the asset's current state, with the header `ce_origin:
    reconciliation` and an id that is the same in every run. Intermediate states are only reported.

    A second run publishes nothing twice, so after an interruption run it again. Keep --since within the topics'
    retention: events that Kafka has deleted would be published again. Gumlet allows 1,000 requests an hour; the command
    waits when they are used up. Exit code 1: something could not be published.

    Examples:
    - `gumlet-bridge reconcile --dry-run`

    - `gumlet-bridge reconcile --since 3d --yes` (in a scheduled job)
    """
    settings = config.load(config_file)
    since_ms = parse_time(since)
    rows = asyncio.run(_reconcile(settings, webhook or [], since_ms, dry_run=dry_run, yes=yes))
    if as_json or is_piped():
        show_rows(rows, COLUMNS, as_json=True)
    else:
        recoverable = [row for row in rows if row["outcome"] != UNRECOVERABLE]
        show_rows(
            recoverable, COLUMNS, as_json=False, empty="No recoverable event is missing: Kafka has every final state."
        )
    if _summarize(rows):
        raise typer.Exit(1)


def _summarize(rows: list[dict[str, Any]]) -> int:
    """Print the totals, the last lines that a user sees; return the number of failures."""
    lost = Counter(row["type"] for row in rows if row["outcome"] == UNRECOVERABLE)
    if lost:
        types = ", ".join(f"{count} {event_type}" for event_type, count in sorted(lost.items()))
        echo(f"{lost.total()} unrecoverable, because the asset is no longer in that state: {types}.", style="dim")
    outcomes = Counter(str(row["outcome"]).partition(":")[0] for row in rows if row["outcome"] != UNRECOVERABLE)
    echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "Nothing to publish.")
    return outcomes["failed"]


async def _reconcile(
    settings: Settings, ids: list[str], since_ms: int, *, dry_run: bool, yes: bool
) -> list[dict[str, Any]]:
    """Find and publish missing events; return the rows of the report."""
    contract = Contract.load(settings.topics.prefix)
    async with gumlet_api(settings.gumlet, echo) as api:
        webhooks = await _select_webhooks(api, ids)
        published = await _read_published(settings, contract, since_ms)
        missing, unrecoverable = await _find_missing(api, webhooks, published, since_ms)
        lost = [event.to_dict(UNRECOVERABLE) for event in unrecoverable]
        planned = [event.to_dict("would be published") for event in missing]
        if dry_run or not missing:
            return planned + lost
        if not yes:
            if not is_piped():
                show_rows(planned, COLUMNS, as_json=False)
            confirm(f"Publish {len(missing)} events?", yes=yes)
        return await _publish(settings, api, missing, contract) + lost


async def _select_webhooks(api: GumletApi, ids: list[str]) -> list[Webhook]:
    """Return the webhooks with these ids, or all that point to a bridge."""
    existing = await api.webhooks()
    if unknown := set(ids) - {webhook.id for webhook in existing}:
        raise BridgeError(f"Gumlet has no webhook {min(unknown)}. Fix: an id from `gumlet-bridge webhooks list`.")
    found = [hook for hook in existing if (hook.id in ids if ids else source_in_url(hook.url) is not None)]
    if not found:
        raise BridgeError(
            f"Gumlet has no webhook with the path {WEBHOOK_PATH}. Fix: --webhook, or `gumlet-bridge webhooks create`."
        )
    return found


async def _read_published(settings: Settings, contract: Contract, since_ms: int) -> PublishedIndex:
    published = PublishedIndex(contract)
    async with open_reader(settings.kafka, {topic.name for topic in contract.topics.values()}) as reader:
        if not reader.topics:
            raise BridgeError(
                "Kafka has no topic of the contract. Fix: BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
        with progress("records read", await reader.count()) as advance:
            async for record in reader.records(since_ms):
                advance(1)
                published.add(record)
    return published


async def _find_missing(
    api: GumletApi, webhooks: list[Webhook], published: PublishedIndex, since_ms: int
) -> tuple[list[MissingEvent], list[MissingEvent]]:
    """Return the events to publish, each once and final states last, and the unrecoverable ones."""
    missing: dict[str, MissingEvent] = {}
    unrecoverable: list[MissingEvent] = []
    with progress("webhooks read", len(webhooks)) as advance:
        for webhook in webhooks:
            source = source_in_url(webhook.url) or DEFAULT_SOURCE
            history = await api.history(webhook.id)
            failed, lost = find_in_history(history, source, published, since_ms)
            failed += await find_in_asset_lists(
                api, webhook, history, source=source, published=published, since_ms=since_ms
            )
            missing |= {event.event_id: event for event in failed}
            unrecoverable += lost
            advance(1)
    return sort_by_finality(missing.values()), unrecoverable


async def _publish(
    settings: Settings, api: GumletApi, missing: Sequence[MissingEvent], contract: Contract
) -> list[dict[str, Any]]:
    """Build and publish events in chunks; return a row with the outcome of each."""
    normalizer = Normalizer(contract)
    rows = []
    last_ms = 0
    remaining = iter(missing)
    async with open_producer(settings, contract) as producer:
        with progress("events built and published", len(missing)) as advance:
            while chunk := list(islice(remaining, CHUNK)):
                ready: list[tuple[MissingEvent, tuple[Event, Delivery]]] = []
                for event in chunk:
                    built = await build_event(api, event, normalizer, last_ms)
                    advance(1)
                    if built is None:
                        rows.append(event.to_dict(UNRECOVERABLE))
                    elif built[0].event_type != event.event_type:
                        rows.append(event.to_dict("failed: the API's response violates the schema"))
                    else:
                        last_ms = built[0].received_ms
                        ready.append((event, built))
                errors = await send_all(producer, [pair for _, pair in ready])
                for position, (event, _) in enumerate(ready):
                    error = errors.get(position)
                    rows.append(event.to_dict("published" if error is None else f"failed: {error}"))
    return rows
