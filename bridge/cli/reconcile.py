"""`gumlet-bridge reconcile`: publish what never came, from what Gumlet's API still knows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import AsJson, ConfigFile, moment, piped, progress, show_rows
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.operations.one_shot_producer import send_all, sender_of
from bridge.operations.reconcile_state import Checkpoint, State
from bridge.operations.reconciliation import (
    Missing,
    PublishedIndex,
    find_in_asset_lists,
    find_in_history,
    in_order,
    made,
)
from bridge.operations.topic_reader import reading
from bridge.publisher.producer import OutgoingEvent
from bridge.webhook import DEFAULT_SOURCE, WEBHOOK_PATH, source_in_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.config.settings import Settings

COLUMNS = ("asset_id", "type", "because", "outcome")
UNKNOWABLE = "unknowable: the state is gone"
CHUNK = 50

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def reconcile(  # noqa: PLR0913, PLR0917 - one parameter for each option
    webhook: Annotated[
        list[str] | None, typer.Option(help="Id of a webhook at Gumlet; otherwise all whose URL is a bridge's.")
    ] = None,
    since: Annotated[str, typer.Option(help="Look at events and assets from then on: 2d, 7d, 2026-01-31.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is missing; publish nothing.")] = False,  # noqa: FBT002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002
    state: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File that remembers how far it came; removed once it is through."),
    ] = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Publish the events that never came: after an outage of more than Gumlet's 24 hours, or on a schedule.

    Compares the webhook's history and the asset lists with Kafka. What is missing of an asset's final state (ready,
    errored, deleted, repackaged) is published from what the API says of the asset now, with the header `ce_origin:
    reconciliation` and an id of its own that is the same at every run: a second run publishes nothing new. An
    intermediate state is gone; it is only reported. Keep --since within what the topics keep, or what Kafka has
    forgotten is published again.

    An interrupted run is resumed by running it again. With --state it does not ask Gumlet again what it asked already,
    which counts where the 1,000 requests an hour are the limit; a file older than a day is not gone on from. Without,
    it begins anew. Either way nothing is published twice.

    Ends with 1 when something could not be published.

    Examples:
    `gumlet-bridge reconcile --dry-run`

    `gumlet-bridge reconcile --since 3d --yes --state /var/lib/bridge/reconcile.json` (in a CronJob)
    """
    settings = config.load(config_file)
    checkpoint = Checkpoint(None if dry_run else state)
    rows, failed = asyncio.run(_reconcile(settings, webhook or [], moment(since), checkpoint, dry_run=dry_run, yes=yes))
    if dry_run or as_json or piped():
        show_rows(rows, COLUMNS, as_json=as_json, title="never came")
    if failed:
        raise typer.Exit(1)


async def _reconcile(  # noqa: PLR0913 - where, what, since when, and how
    settings: Settings, ids: list[str], since_ms: int, checkpoint: Checkpoint, *, dry_run: bool, yes: bool
) -> tuple[list[dict[str, Any]], int]:
    contract = Contract.load(settings.topics.prefix)
    identity = [settings.gumlet.api_url, settings.kafka.bootstrap_servers, settings.topics.prefix, sorted(ids)]
    state = checkpoint.load(str(identity))
    if state is None:
        state = State(str(identity), int(time.time() * 1000))
    else:
        _tell(f"Going on: {len(state.surveyed)} webhooks are surveyed, {len(state.rows)} events are through.")
    async with gumlet_api(settings.gumlet, _tell) as api:
        webhooks = await _webhooks(api, ids)
        kafka = await _on_kafka(settings, contract, since_ms)
        await _survey(api, webhooks, kafka, since_ms, state, checkpoint)
        unknowable = [each.line(UNKNOWABLE) for each in state.unknowable]
        through = {row["id"] for row in state.rows}
        left = [each for each in in_order(state.missing) if each.event_id not in through]
        missing = [each for each in left if not kafka.has(each)]
        state.rows += [each.line("on Kafka since") for each in left if kafka.has(each)]
        if dry_run:
            return [each.line("would be published") for each in missing] + unknowable, 0
        if missing and not yes:
            show_rows([each.line("would be published") for each in missing] + unknowable, COLUMNS, as_json=False)
            typer.confirm(f"Publish these {len(missing)}?", abort=True, err=True)
        await _publish(settings, api, missing, contract, state, checkpoint)
    checkpoint.done()
    outcomes = [str(row["outcome"]).partition(":")[0] for row in state.rows + unknowable]
    published, failed, gone = map(outcomes.count, ("published", "failed", "unknowable"))
    _tell(f"{published} published, {failed} failed, {gone} unknowable because the state is gone.")
    return state.rows + unknowable, failed


def _tell(words: str) -> None:
    typer.echo(words, err=True)


async def _on_kafka(settings: Settings, contract: Contract, since_ms: int) -> PublishedIndex:
    kafka = PublishedIndex(contract)
    async with reading(settings.kafka, {topic.name for topic in contract.topics.values()}) as reader:
        if not reader.topics:
            raise BridgeError(
                "Kafka has no topic of the contract. Fix: BRIDGE_TOPICS_PREFIX, or `gumlet-bridge topics apply`."
            )
        with progress("records read", await reader.count()) as move_on:
            async for record in reader.records(since_ms):
                move_on(1)
                kafka.add(record)
    return kafka


async def _webhooks(api: GumletApi, ids: list[str]) -> list[Webhook]:
    """Return the webhooks that are meant."""
    there = await api.webhooks()
    if missing := set(ids) - {each.id for each in there}:
        raise BridgeError(f"Gumlet has no webhook {min(missing)}. Fix: an id from `gumlet-bridge webhooks list`.")
    found = [each for each in there if (each.id in ids if ids else source_in_url(each.url) is not None)]
    if not found:
        raise BridgeError(
            f"Gumlet has no webhook whose URL has {WEBHOOK_PATH}. Fix: --webhook, or `gumlet-bridge webhooks subscribe`."
        )
    return found


async def _survey(  # noqa: PLR0913, PLR0917 - where to look, what is known, and where it is kept
    api: GumletApi, webhooks: list[Webhook], kafka: PublishedIndex, since_ms: int, state: State, checkpoint: Checkpoint
) -> None:
    """Add to `state` what the webhooks that are not surveyed yet show."""
    left = [webhook for webhook in webhooks if webhook.id not in state.surveyed]
    with progress("webhooks surveyed", len(left)) as move_on:
        for webhook in left:
            source = source_of(webhook.url)
            history = await api.history(webhook.id)
            missing, unknowable = find_in_history(history, source, kafka, since_ms)
            missing += await find_in_asset_lists(api, webhook, history, since_ms, source, kafka)
            state.missing += missing
            state.unknowable += unknowable
            state.surveyed.append(webhook.id)
            checkpoint.save(state)
            move_on(1)


def source_of(url: str) -> str:
    """Return the source that the bridge reads in a webhook's URL."""
    return source_in_url(url) or DEFAULT_SOURCE


async def _publish(  # noqa: PLR0913, PLR0917 - from where, what, to where, and where it is kept
    settings: Settings,
    api: GumletApi,
    missing: list[Missing],
    contract: Contract,
    state: State,
    checkpoint: Checkpoint,
) -> None:
    """Make and publish events, some at a time; add to `state` what became of each."""
    normalizer = Normalizer(contract)
    sender = await sender_of(settings, contract)
    last_ms = 0
    try:
        with progress("events made and published", len(missing)) as move_on:
            for chunk in _chunks(missing):
                ready: list[tuple[Missing, OutgoingEvent]] = []
                for each in chunk:
                    event_and_delivery = await made(api, each, normalizer, last_ms)
                    move_on(1)
                    if event_and_delivery is None:
                        state.rows.append(each.line(UNKNOWABLE))
                        continue
                    event, delivery = event_and_delivery
                    if event.event_type != each.event_type:
                        state.rows.append(each.line("failed: the API's answer breaks the schema"))
                        continue
                    last_ms = event.received_ms
                    ready.append((each, OutgoingEvent(event, delivery)))
                refusals = await send_all(sender, [prepared for _, prepared in ready])
                for each, prepared in ready:
                    refusal = refusals.get(id(prepared))
                    state.rows.append(each.line("published" if refusal is None else f"failed: {refusal}"))
                checkpoint.save(state)
    finally:
        await sender.close()


def _chunks(missing: list[Missing]) -> Iterator[list[Missing]]:
    for start in range(0, len(missing), CHUNK):
        yield missing[start : start + CHUNK]
