"""`gumlet-bridge schemas register` and `status`: registers the contract's schemas and compares them with a registry.

Input: settings, the contract, a schema registry. Output: a row for each topic; exit code 1 when one is not registered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.output import AsJson, ConfigFile, progress, show_rows
from bridge.config import settings as config
from bridge.contract.schemas import Contract
from bridge.errors import BridgeError, RegistryError
from bridge.kafka.schema_registry import Registered, Registry, registry, subject_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bridge.config.settings import Settings
    from bridge.contract.schemas import Topic

COLUMNS = ("subject", "state", "id", "version", "detail")
REGISTERED = "registered"
INCOMPATIBLE = "incompatible with version"
REFUSALS = {409, 422}
"""Statuses that concern one schema; others can still be registered."""

Directory = Annotated[
    Path | None,
    typer.Option("--schemas", metavar="DIRECTORY", help="Directory of the schema files; default: those of the bridge."),
]
Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this event type; may repeat.")]


def register(
    types: Types = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the registry would accept; register nothing.")
    ] = False,
    directory: Directory = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Register the schema of each topic's values, under the subject `<topic>-value`, at BRIDGE_REGISTRY_URL.

    Schemas are sent bundled with their shared definitions. A second run changes nothing. A schema that is incompatible
    with its subject's newest version is reported; the others are registered. Run this before a new version of the
    bridge starts, if it publishes in a wire format of the registry (BRIDGE_REGISTRY_WIRE_FORMAT). Exits with 1 when the
    registry rejected a schema or, with --dry-run, would reject one.

    Examples:
    - `gumlet-bridge schemas register --dry-run`

    - Apicurio: `BRIDGE_REGISTRY_URL=http://apicurio:8080/apis/ccompat/v7 gumlet-bridge schemas register`

    - in a script: `gumlet-bridge schemas register | jq -r 'select(.state != "registered") | .subject'`
    """
    rows = _for_each(_propose if dry_run else _register, types, directory, config_file)
    show_rows(rows, COLUMNS, as_json=as_json)
    if refused := [row["subject"] for row in rows if row["state"] == "refused"]:
        raise BridgeError(
            f"The registry rejects {len(refused)} of {len(rows)} schemas. Fix: see the details and "
            "`gumlet-bridge schemas check`; undo an incompatible change, or raise x-topic.version."
        )


def status(
    types: Types = None,
    directory: Directory = None,
    *,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Compare the registry with the contract: the registered schemas, their ids and versions.

    **registered**: exactly this schema is registered. **differs**: the subject has other schemas; the detail says
    whether this one can be registered. **missing**: the subject does not exist. Changes nothing. Exits with 1 unless
    every schema is registered.

    Examples:
    - `gumlet-bridge schemas status`

    - one topic, for a script: `gumlet-bridge schemas status --type video.status.ready | jq .id`
    """
    rows = _for_each(_compare, types, directory, config_file)
    show_rows(rows, COLUMNS, as_json=as_json)
    if any(row["state"] != REGISTERED for row in rows):
        raise BridgeError("The registry does not have every schema. Fix: gumlet-bridge schemas register")


def _for_each(
    work: Callable[[Registry, Topic], Awaitable[dict[str, Any]]],
    types: list[str] | None,
    directory: Path | None,
    config_file: Path | None,
) -> list[dict[str, Any]]:
    settings = config.load(config_file)
    topics = _chosen(settings, types or [], directory)

    async def query_all() -> list[dict[str, Any]]:
        async with registry(settings.registry) as client:
            rows = []
            with progress("schemas", len(topics)) as advance:
                for topic in topics:
                    about = {"event_type": topic.event_type, "subject": subject_name(topic)}
                    rows.append(about | await work(client, topic))
                    advance(1)
            return rows

    return asyncio.run(query_all())


def _chosen(settings: Settings, types: list[str], directory: Path | None) -> list[Topic]:
    topics = Contract.load(settings.topics.prefix, directory).topics
    if unknown := sorted(set(types) - topics.keys()):
        raise BridgeError(
            f"{unknown[0]} is not an event type of the contract. Fix: use one of `gumlet-bridge schemas list`."
        )
    return [topics[name] for name in sorted(types or topics)]


async def _register(client: Registry, topic: Topic) -> dict[str, Any]:
    if (found := await client.find(topic)) is not None:
        return _row(REGISTERED, found, "nothing to do")
    try:
        return _row(REGISTERED, await client.register(topic), "new")
    except RegistryError as error:
        if error.status not in REFUSALS:
            raise
        return _row("refused", None, error.said or str(error))


async def _propose(client: Registry, topic: Topic) -> dict[str, Any]:
    row = await _compare(client, topic)
    if row["state"] == REGISTERED:
        return row
    return row | {"state": "refused" if row["detail"].startswith(INCOMPATIBLE) else "would be registered"}


async def _compare(client: Registry, topic: Topic) -> dict[str, Any]:
    if (found := await client.find(topic)) is not None:
        return _row(REGISTERED, found)
    latest = await client.latest_version(topic)
    if latest is None:
        return _row("missing", None, "a new subject")
    try:
        errors = await client.compatibility_errors(topic)
    except RegistryError as error:
        if error.status not in REFUSALS:
            raise
        errors = [error.said or str(error)]
    if errors is None:
        return _row("differs", None, f"compatible with version {latest}")
    return _row("differs", None, f"{INCOMPATIBLE} {latest}: {'; '.join(errors) or 'without a reason'}")


def _row(state: str, found: Registered | None, detail: str = "") -> dict[str, Any]:
    return {
        "state": state,
        "id": found and found.id,
        "version": found and found.version,
        "guid": found and found.guid,
        "detail": detail,
    }
