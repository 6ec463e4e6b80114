"""`bridge reconcile`: publish what never came, from what Gumlet's API still knows."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from yarl import URL

from bridge import config
from bridge.cli.output import AsJson, ConfigFile, moment, piped, progress, show_rows
from bridge.cli.publishing import send_all, sender_of
from bridge.contract import Contract
from bridge.errors import BridgeError
from bridge.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.kafka_reader import reading
from bridge.normalize import Normalizer
from bridge.reconcile import Findings, Missing, OnKafka, from_history, from_lists, in_order, made
from bridge.sender import Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.config import Settings

PATH = "/webhooks/gumlet"
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
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Publish the events that never came: after an outage of more than Gumlet's 24 hours, or on a schedule.

    Compares the webhook's history and the asset lists with Kafka. What is missing of an asset's final state (ready,
    errored, deleted, repackaged) is published from what the API says of the asset now, with the header `ce_origin:
    reconciliation` and an id of its own that is the same at every run: a second run publishes nothing new, and one
    that was interrupted is resumed by running it again. An intermediate state is gone; it is only reported. Keep
    --since within what the topics keep, or what Kafka has forgotten is published again.

    Ends with 1 when something could not be published.

    Examples:
    `bridge reconcile --dry-run`

    `bridge reconcile --since 3d --yes` (in a CronJob)
    """
    settings = config.load(config_file)
    rows, failed = asyncio.run(_reconcile(settings, webhook or [], moment(since), dry_run=dry_run, yes=yes))
    if dry_run or as_json or piped():
        show_rows(rows, COLUMNS, as_json=as_json, title="never came")
    if failed:
        raise typer.Exit(1)


async def _reconcile(
    settings: Settings, ids: list[str], since_ms: int, *, dry_run: bool, yes: bool
) -> tuple[list[dict[str, Any]], int]:
    contract = Contract.load(settings.topics.prefix)
    async with gumlet_api(settings.gumlet, _tell) as api:
        webhooks = await _webhooks(api, ids)
        findings = await _survey(api, webhooks, await _on_kafka(settings, contract, since_ms), since_ms)
        unknowable = [each.line(UNKNOWABLE) for each in findings.unknowable]
        missing = in_order(findings.missing)
        if dry_run:
            return [each.line("would be published") for each in missing] + unknowable, 0
        if missing and not yes:
            show_rows([each.line("would be published") for each in missing] + unknowable, COLUMNS, as_json=False)
            typer.confirm(f"Publish these {len(missing)}?", abort=True, err=True)
        rows = await _publish(settings, api, missing, contract)
    published = sum(row["outcome"] == "published" for row in rows)
    failed = sum(str(row["outcome"]).startswith("failed") for row in rows)
    gone = len(rows) - published - failed + len(unknowable)
    _tell(f"{published} published, {failed} failed, {gone} unknowable because the state is gone.")
    return rows + unknowable, failed


def _tell(words: str) -> None:
    typer.echo(words, err=True)


async def _on_kafka(settings: Settings, contract: Contract, since_ms: int) -> OnKafka:
    kafka = OnKafka(contract)
    async with reading(settings.kafka, {topic.name for topic in contract.topics.values()}) as reader:
        if not reader.topics:
            raise BridgeError(
                "Kafka has no topic of the contract. Fix: BRIDGE_TOPICS_PREFIX, or `bridge topics apply`."
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
        raise BridgeError(f"Gumlet has no webhook {min(missing)}. Fix: an id from `bridge webhooks list`.")
    found = [each for each in there if (each.id in ids if ids else PATH in URL(each.url).path)]
    if not found:
        raise BridgeError(
            f"Gumlet has no webhook whose URL has {PATH}. Fix: --webhook, or `bridge webhooks subscribe`."
        )
    return found


async def _survey(api: GumletApi, webhooks: list[Webhook], kafka: OnKafka, since_ms: int) -> Findings:
    findings = Findings()
    with progress("webhooks surveyed", len(webhooks)) as move_on:
        for webhook in webhooks:
            source = source_of(webhook.url)
            history = await api.history(webhook.id)
            found = from_history(history, source, kafka, since_ms)
            findings.missing += found.missing
            findings.unknowable += found.unknowable
            findings.missing += await from_lists(api, webhook, history, since_ms, source, kafka)
            move_on(1)
    return findings


def source_of(url: str) -> str:
    """Return the source that the bridge reads in a webhook's URL."""
    head, _, last = URL(url).path.rstrip("/").rpartition("/")
    return last if head.endswith(PATH) else "default"


async def _publish(
    settings: Settings, api: GumletApi, missing: list[Missing], contract: Contract
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    normalizer = Normalizer(contract)
    sender = await sender_of(settings, contract)
    last_ms = 0
    try:
        with progress("events made and published", len(missing)) as move_on:
            for chunk in _chunks(missing):
                ready: list[tuple[Missing, Prepared]] = []
                for each in chunk:
                    event_and_delivery = await made(api, each, normalizer)
                    if event_and_delivery is None:
                        rows.append(each.line(UNKNOWABLE))
                        continue
                    event, delivery = event_and_delivery
                    if event.event_type != each.event_type:
                        rows.append(each.line("failed: the API's answer breaks the schema"))
                        continue
                    # One after the other also in time: a consumer that sorts by it sees the final state last.
                    last_ms = max(last_ms + 1, int(time.time() * 1000))
                    ready.append((each, Prepared(event._replace(received_ms=last_ms), delivery)))
                refusals = await send_all(sender, [prepared for _, prepared in ready])
                for each, prepared in ready:
                    refusal = refusals.get(id(prepared))
                    rows.append(each.line("published" if refusal is None else f"failed: {refusal}"))
                move_on(len(chunk))
    finally:
        await sender.close()
    return rows


def _chunks(missing: list[Missing]) -> Iterator[list[Missing]]:
    for start in range(0, len(missing), CHUNK):
        yield missing[start : start + CHUNK]
