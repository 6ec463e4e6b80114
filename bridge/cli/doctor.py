"""`gumlet-bridge doctor`: runs every check and shows each finding with its cause and next step.

Input: settings; the journal, Kafka, the registry, the running daemon and Gumlet. Output: a table or JSON lines; exit
code 1 when a check failed. Invariant: nothing is changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.output import AsJson, ConfigFile, echo, make_app, show_rows
from bridge.config import settings as config
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError, ConfigError
from bridge.operations.checks import (
    Finding,
    check_daemon,
    check_journal,
    check_kafka,
    check_registry,
    check_tokens,
    failure,
)
from bridge.operations.webhook_checks import check_gumlet

if TYPE_CHECKING:
    from pathlib import Path

app = make_app()


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Option(help="The webhook's URL; default: every webhook whose URL is one of the bridge's.")
    ] = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Check configuration, schemas, journal, Kafka, registry, the running daemon and, with an API key, Gumlet's side.

    Changes nothing, and can run next to a daemon. Run it with the daemon's settings: it then checks what the daemon's
    user may do. Exits with 1 when a check failed.

    Examples:
    - `gumlet-bridge doctor`

    - `gumlet-bridge doctor --url https://hooks.example.com/webhooks/gumlet/films --json`
    """
    findings = asyncio.run(_run_checks(config_file, url))
    show_rows([finding._asdict() for finding in findings], Finding._fields, as_json=as_json)
    if any(finding.result == "failed" for finding in findings):
        raise typer.Exit(1)


async def _run_checks(config_file: Path | None, url: str | None) -> list[Finding]:
    try:
        settings = config.load(config_file, serving=True)
    except ConfigError as error:
        return [failure("configuration", error, "see `gumlet-bridge config example`; nothing else was checked")]
    findings = [Finding("configuration", "ok", "complete")]
    try:
        contract = Contract.load(settings.topics.prefix)
        Normalizer(contract)
    except BridgeError as error:
        return [*findings, failure("schemas", error, "install the bridge again, or correct the file")]
    findings += [
        Finding("schemas", "ok", f"{len(contract.topics)} topics"),
        check_journal(settings),
        *check_tokens(settings),
    ]
    findings += await check_kafka(settings, contract)
    findings += await check_registry(settings, contract)
    findings += await check_daemon(settings, findings)
    return findings + await check_gumlet(settings, url, echo)
