"""`gumlet-bridge doctor`: everything that the bridge needs, looked at once, each finding with what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer
from aiokafka.errors import KafkaError

from bridge.cli.journal_drain import damaged
from bridge.cli.output import AsJson, ConfigFile, echo, make_app, show_rows
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError, ConfigError
from bridge.ingress.tokens import Tokens
from bridge.kafka.client import client_options
from bridge.kafka.connection import kafka_client
from bridge.kafka.schema_registry import registry, subject_name
from bridge.kafka.topics import diff_topics
from bridge.operations.daemon_status import fetch_status
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.operations.journal_reader import viewing
from bridge.operations.topic_reader import open_reader
from bridge.queue.journal_file import FILE_NAME
from bridge.webhook import WEBHOOK_PATH, is_same_url, source_in_url, url_error

if TYPE_CHECKING:
    from bridge.config.settings import Settings

DAY_MS = 86_400_000
CLOCK_SECONDS = 30.0
"""How far the clock may be off: it is the time of every record."""

app = make_app()


class Finding(NamedTuple):
    """What one look found: `fix` is empty where nothing is to be done."""

    check: str
    result: Literal["ok", "warning", "failed", "not checked"]
    detail: str
    fix: str = ""


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Option(help="The webhook's URL; otherwise any that ends as the bridge's do is looked at.")
    ] = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Check configuration, schemas, journal, Kafka, a schema registry and, with an API key, the webhook and the clock.

    Changes nothing, and is safe beside a running daemon. Ends with 1 when something failed.

    Examples:
    `gumlet-bridge doctor`

    `gumlet-bridge doctor --url https://hooks.example.com/webhooks/gumlet/films --json`
    """
    findings = asyncio.run(_run_checks(config_file, url))
    show_rows([each._asdict() for each in findings], Finding._fields, as_json=as_json)
    if any(each.result == "failed" for each in findings):
        raise typer.Exit(1)


async def _run_checks(config_file: Path | None, url: str | None) -> list[Finding]:
    try:
        settings = config.load(config_file, serving=True)
        Tokens.from_settings(settings)
        client_options(settings.kafka)
    except ConfigError as error:
        return [_failed("configuration", error, "see `gumlet-bridge config example`; nothing else was checked")]
    findings = [Finding("configuration", "ok", "complete")]
    try:
        contract = Contract.load(settings.topics.prefix)
        Normalizer(contract)
    except BridgeError as error:
        return [*findings, _failed("schemas", error, "install the bridge again, or mend the file")]
    findings.append(Finding("schemas", "ok", f"{len(contract.topics)} topics"))
    findings += _daemon(settings)
    findings.append(_journal(settings))
    findings += await _kafka(settings, contract)
    findings += await _registry(settings, contract)
    findings += await _gumlet(settings, url)
    return findings


def _failed(check: str, error: Exception, fix: str) -> Finding:
    detail, _, told = str(error).partition(" Fix: ")
    return Finding(check, "failed", detail or type(error).__name__, told or fix)


def _daemon(settings: Settings) -> list[Finding]:
    """Report the conditions of a running daemon, as its page and /status do."""
    try:
        status = fetch_status(settings)
    except BridgeError as error:
        return [_failed("daemon", error, "")._replace(result="not checked")]
    failures = [f"{count} {reason}" for counts in status["last_hour"].values() for reason, count in counts.items()]
    detail = f"running; rejected or dead-lettered in the last hour: {', '.join(failures) or 'nothing'}"
    return [Finding("daemon", "ok", detail)] + [
        Finding(
            f"daemon: {problem['component']}",
            "failed" if problem["state"] == "failing" else "warning",
            problem["cause"],
            problem["next_step"],
        )
        for problem in status["health"]
        if problem["state"] != "ok"
    ]


def _journal(settings: Settings) -> Finding:
    """Look at the journal's directory, and read the journal as beside a running daemon one may."""
    directory = settings.journal.dir
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return Finding("journal", "failed", f"{place} cannot be written", "BRIDGE_JOURNAL_DIR, or its permissions")
    free = shutil.disk_usage(place).free
    if free < settings.journal.min_free_bytes:
        return Finding(
            "journal",
            "failed",
            f"{directory}: {free >> 20} MiB free are less than min_free_bytes: deliveries get 503",
            "make room, or another disk in BRIDGE_JOURNAL_DIR",
        )
    if free < settings.journal.max_bytes:
        return Finding(
            "journal",
            "warning",
            f"{directory}: {free >> 20} MiB free are less than journal.max_bytes",
            "a larger disk, or a smaller BRIDGE_JOURNAL_MAX_BYTES",
        )
    if aside := damaged(directory):
        return Finding(
            "journal",
            "warning",
            f"{aside[-1]} was set aside as damaged",
            "`gumlet-bridge journal salvage` gets out what is whole; then move the file away",
        )
    waiting = ""
    if (directory / FILE_NAME).exists():
        try:
            with viewing(directory) as view:
                waiting = f", {view.count()} deliveries wait"
        except BridgeError as error:
            return _failed("journal", error, "")
    return Finding("journal", "ok", f"{directory}: {free >> 20} MiB free{waiting}")


async def _kafka(settings: Settings, contract: Contract) -> list[Finding]:
    """Reach Kafka as a consumer does, then compare its topics with the contract."""
    names = {topic.name for topic in contract.topics.values()}
    try:
        async with open_reader(settings.kafka, names) as reader:
            there = len(reader.topics)
    except BridgeError as error:
        return [_failed("kafka", error, "")]
    findings = [Finding("kafka", "ok", f"{settings.kafka.bootstrap_servers} answers")]
    try:
        async with kafka_client(settings.kafka) as client:
            differences = (await diff_topics(client, contract, settings)).differences
    except (KafkaError, TimeoutError, OSError) as error:
        told = f"{there} of {len(names)} are there; Kafka does not say more: {error or type(error).__name__}"
        return [
            *findings,
            Finding("topics", "warning", told, "allow this client to Describe topics and their configuration"),
        ]
    if not differences:
        return [*findings, Finding("topics", "ok", f"all {len(names)} are as the contract says")]
    return findings + [
        Finding("topics", "failed", f"{each.topic}: {each.subject} is {each.actual}, not {each.desired}", each.fix)
        for each in differences
    ]


async def _registry(settings: Settings, contract: Contract) -> list[Finding]:
    """Ask the schema registry, if there is one, for every schema."""
    if settings.registry.url is None:
        return []
    try:
        async with registry(settings.registry) as there:
            missing = [subject_name(topic) for topic in contract.topics.values() if await there.find(topic) is None]
    except BridgeError as error:
        return [_failed("registry", error, "")]
    if not missing:
        return [Finding("registry", "ok", f"{settings.registry.url} has all schemas")]
    detail = f"{len(missing)} schemas are not registered, {missing[0]} the first"
    waits = settings.registry.wire_format != "plain"
    return [Finding("registry", "failed" if waits else "warning", detail, "`gumlet-bridge schemas register`")]


async def _gumlet(settings: Settings, url: str | None) -> list[Finding]:
    if settings.gumlet.api_key is None:
        return [Finding("gumlet", "not checked", "no API key", "BRIDGE_GUMLET_API_KEY")]
    try:
        async with gumlet_api(settings.gumlet, echo) as api:
            webhooks = await api.webhooks()
            here = [
                each
                for each in webhooks
                if (is_same_url(each.url, url) if url else source_in_url(each.url) is not None)
            ]
            findings = [_clock(api.clock_skew_seconds)]
            if url and not here and (problem := url_error(url, settings.allowed_sources)):
                findings.append(Finding("webhook", "failed", problem, "--url"))
            for webhook in here:
                if problem := url_error(webhook.url, settings.allowed_sources):
                    fix = f"`gumlet-bridge webhooks update {webhook.id} --url`"
                    findings.append(Finding(f"webhook {webhook.id}", "failed", problem, fix))
                findings += [_token(settings, webhook), await _deliveries(api, webhook)]
    except BridgeError as error:
        return [_failed("gumlet", error, "")]
    if not here:
        findings.append(
            Finding(
                "webhook",
                "failed",
                f"none of {len(webhooks)} points to {url or WEBHOOK_PATH}",
                "`gumlet-bridge webhooks create`",
            )
        )
    return findings


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", "not checked", "Gumlet did not say its time")
    if abs(ahead) > CLOCK_SECONDS:
        return Finding("clock", "failed", f"{ahead:+.0f} s from Gumlet's", "synchronize it: it is each record's time")
    return Finding("clock", "ok", f"within {CLOCK_SECONDS:.0f} s of Gumlet's")


def _token(settings: Settings, webhook: Webhook) -> Finding:
    check = f"webhook {webhook.id}"
    tokens = Tokens.from_settings(settings)
    if tokens.authentication_disabled:
        return Finding(check, "warning", f"{webhook.url}: the bridge asks for no token", "BRIDGE_TOKENS")
    if webhook.token is None or not tokens.accepts(webhook.token.get_secret_value()):
        fix = f"`gumlet-bridge webhooks update {webhook.id} --token`"
        return Finding(check, "failed", f"{webhook.url}: sends a token that the bridge refuses (401)", fix)
    return Finding(check, "ok", f"{webhook.url}: sends a token that the bridge believes")


async def _deliveries(api: GumletApi, webhook: Webhook) -> Finding:
    check = f"deliveries {webhook.id}"
    since = int(time.time() * 1000) - DAY_MS
    latest = [each for each in await api.history(webhook.id) if each.created_ms >= since]
    counts = {state: sum(each.status == state for each in latest) for state in ("success", "retrying", "failed")}
    detail = "of the last day: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    if counts["failed"]:
        return Finding(check, "failed", detail, "`gumlet-bridge reconcile --dry-run`: failed ones never come again")
    if counts["retrying"]:
        return Finding(check, "warning", detail, "the bridge's log and `gumlet-bridge webhooks history` say why")
    return Finding(check, "ok", detail)
