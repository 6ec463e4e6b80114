"""`gumlet-bridge schemas drift`: what running bridges were sent that the contract does not know."""

from __future__ import annotations

import urllib.request
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from bridge.cli.output import AsJson, is_piped, printable, write_line
from bridge.contract.references import read_files
from bridge.contract.schemas import schemas_directory
from bridge.devtools.drift_proposals import proposal
from bridge.errors import BridgeError

DEFAULT = "http://127.0.0.1:8081"


def drift(
    admin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A daemon's admin port; repeat it for each replica: they are added up.",
            envvar="BRIDGE_ADMIN_URL",
            show_default=DEFAULT,
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what running bridges were sent that the contract does not know, and the change that would take it in.

    Each daemon counts for itself, anew from its start; what was before a restart, Prometheus has
    (`bridge_schema_drift_total`). Names and forms are kept, never a value. Ends with 1 when there is any.

    Examples:
    - `gumlet-bridge schemas drift --admin http://bridge-0:8081 --admin http://bridge-1:8081`

    - for a script: `gumlet-bridge schemas drift --json | jq -r 'select(.kind == "new_type") | .event_type'`
    """
    files = read_files(schemas_directory())
    sightings = [each | {"change": proposal(each, files)} for each in _merged(admin or [DEFAULT])]
    if as_json or is_piped():
        for seen in sightings:
            write_line(seen)
    else:
        _show(sightings)
    if sightings:
        raise typer.Exit(1)


def _show(sightings: list[dict[str, Any]]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for seen in sightings:
        place = printable(f"{seen['event_type']} {seen['path']}".strip())
        console.print(f"{seen['kind']}: {place} ({seen['deliveries']})", style="bold")
        for line in seen["change"]:
            console.print(f"  {printable(line)}")
    if not sightings:
        console.print("Nothing that the contract does not know.")


def _merged(admins: list[str]) -> list[dict[str, Any]]:
    """Return what all of them saw, the most frequent first."""
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for admin in admins:
        for seen in _ask(admin):
            place = (seen["kind"], seen["event_type"], seen["path"])
            known = merged.setdefault(place, seen | {"deliveries": 0, "forms": []})
            known["deliveries"] += seen["deliveries"]
            known["forms"] = sorted({*known["forms"], *seen.get("forms", [])})
    return sorted(merged.values(), key=lambda seen: -seen["deliveries"])


def _ask(admin: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{admin.rstrip('/')}/drift", timeout=10) as answer:  # noqa: S310 - the user's URL
            found: list[dict[str, Any]] = orjson.loads(answer.read())
    except (OSError, ValueError) as error:
        raise BridgeError(f"{admin} does not answer: {error}. Fix: --admin with the daemon's admin URL.") from error
    return found
