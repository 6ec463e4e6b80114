"""`gumlet-bridge schemas drift`: schema drift that running bridges have counted."""

from __future__ import annotations

import urllib.request
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from bridge.cli.output import AsJson, ConfigFile, is_piped, write_line
from bridge.config import settings as config
from bridge.errors import BridgeError
from bridge.telemetry.logging import printable


def drift(
    admin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A daemon's admin URL; repeat it for each replica: their counts are added.",
            envvar="BRIDGE_ADMIN_URL",
            show_default="that of BRIDGE_ADMIN_LISTEN",
        ),
    ] = None,
    *,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the types, fields and values that running bridges received and the contract does not know.

    Each daemon counts from its start; counts from before a restart are in Prometheus (`bridge_schema_drift_total`).
    Names and JSON types are kept, never a value. Exits with 1 if there is any drift. `new_type`: the events are in the
    topic `unrecognized`. `new_field` and `changed`: the values are in `additional` of the events; the mappings in
    bridge/contract/mappings.py and the schema files have to be extended.

    Examples:
    - `gumlet-bridge schemas drift --admin http://bridge-0:8081 --admin http://bridge-1:8081`

    - for a script: `gumlet-bridge schemas drift --json | jq -r 'select(.kind == "new_type") | .event_type'`
    """
    entries = _merge(admin or [config.load(config_file).admin_url])
    if as_json or is_piped():
        for entry in entries:
            write_line(entry)
    else:
        _show(entries)
    if entries:
        raise typer.Exit(1)


def _show(entries: list[dict[str, Any]]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for entry in entries:
        found = printable(f"{entry['event_type']} {entry['path']}".strip())
        json_types = f", {' or '.join(entry['json_types'])}" if entry["json_types"] else ""
        console.print(f"{entry['kind']}: {found} (deliveries: {entry['deliveries']}{json_types})")
    if not entries:
        console.print("No schema drift: every delivery since the daemon's start matches the contract.")


def _merge(admins: list[str]) -> list[dict[str, Any]]:
    """Return the drift entries of all daemons, the most frequent first."""
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for admin in admins:
        for entry in _fetch(admin):
            key = (entry["kind"], entry["event_type"], entry["path"])
            known = merged.setdefault(key, entry | {"deliveries": 0, "json_types": []})
            known["deliveries"] += entry["deliveries"]
            known["json_types"] = sorted({*known["json_types"], *entry["json_types"]})
    return sorted(merged.values(), key=lambda entry: -entry["deliveries"])


def _fetch(admin: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{admin.rstrip('/')}/drift", timeout=10) as response:  # noqa: S310 - the user's URL
            found: list[dict[str, Any]] = orjson.loads(response.read())
    except (OSError, ValueError) as error:
        raise BridgeError(f"{admin} does not respond: {error}. Fix: --admin with the daemon's admin URL.") from error
    return found
