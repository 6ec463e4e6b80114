"""`gumlet-bridge webhooks`: the webhooks of the Gumlet account: list, create, update, delete, and their history."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from bridge.cli.output import AsJson, ConfigFile, DryRun, Yes, confirm, echo, make_app, show_rows
from bridge.config import settings as config
from bridge.errors import BridgeError, ConfigError
from bridge.ingress.tokens import Tokens, active_tokens
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.webhook import is_same_url, url_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.config.settings import Settings

app = make_app(
    "The webhooks of the Gumlet account: list, create, update, delete, history. Needs BRIDGE_GUMLET_API_KEY."
)

COLUMNS = ("id", "url", "sources", "triggers", "token")
DEFAULT_TRIGGERS = ("status", "live-video-status")
"""All events of videos and of live streams; `status` alone brings no live events."""
NO_TOKEN = "No token is configured for Gumlet to send. Fix: BRIDGE_TOKENS or BRIDGE_TOKENS_FILE."  # noqa: S105 - a message
WebhookId = Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook, from `webhooks list`.")]


@app.command("list")
def list_(*, as_json: AsJson = False, config_file: ConfigFile = None) -> None:
    """List the account's webhooks, and whether each sends a token of the bridge's configuration. Changes nothing.

    Example: `gumlet-bridge webhooks list`
    """
    settings = config.load(config_file)

    async def find() -> list[Webhook]:
        async with _api(settings) as api:
            return await api.webhooks()

    show_rows(
        [_row(webhook, settings) for webhook in asyncio.run(find())],
        COLUMNS,
        as_json=as_json,
        empty="The account has no webhooks: Gumlet sends nothing. Create one with `gumlet-bridge webhooks create`.",
    )


@app.command()
def create(  # noqa: PLR0913 - one parameter for each option
    *,
    url: Annotated[
        str, typer.Option(help="Public URL of the bridge: https://HOST/webhooks/gumlet or .../webhooks/gumlet/SOURCE.")
    ],
    source: Annotated[list[str], typer.Option(help="Id of a workspace (collection) at Gumlet; can be repeated.")],
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            help="status, live-video-status, or single event types; can be repeated.",
            show_default=" and ".join(DEFAULT_TRIGGERS),
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config_file: ConfigFile = None,
) -> None:
    """Create a webhook at Gumlet that sends events to the bridge, with the first token of the bridge's configuration.

    Shows the webhook and asks first. A webhook with the same URL and sources is not created twice: its token and
    triggers are updated if they differ.

    Examples:
    - `gumlet-bridge webhooks create --dry-run --url https://hooks.example.com/webhooks/gumlet --source 5f462c1561cf`

    - `gumlet-bridge webhooks create --yes --url https://hooks.example.com/webhooks/gumlet --source 5f462c1561cf`
    """
    settings = config.load(config_file)
    _check_url(url, settings)
    triggers = trigger or list(DEFAULT_TRIGGERS)
    token = _tokens(settings)[:1]
    if not token:
        raise ConfigError(NO_TOKEN)

    async def find_or_create() -> Webhook | None:
        async with _api(settings) as api:
            existing = [
                each for each in await api.webhooks() if is_same_url(each.url, url) and set(each.sources) == set(source)
            ]
            if existing:
                return await _update_existing(api, existing[0], triggers, token[0], settings, dry_run=dry_run, yes=yes)
            wanted = Webhook("(new)", url, tuple(source), tuple(triggers), token[0])
            if not _confirm("This webhook will be created:", _row(wanted, settings), dry_run=dry_run, yes=yes):
                return None
            return await api.create_webhook(url, source, triggers, token[0])

    if (webhook := asyncio.run(find_or_create())) is not None:
        show_rows([_row(webhook, settings)], COLUMNS, as_json=False)


@app.command()
def update(  # noqa: PLR0913 - one parameter for each option
    webhook_id: WebhookId,
    *,
    url: Annotated[str | None, typer.Option(help="The new URL.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="The new sources, all of them; can be repeated.")] = None,
    trigger: Annotated[list[str] | None, typer.Option(help="The new triggers, all of them.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Set the bridge's first token, for token rotation.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config_file: ConfigFile = None,
) -> None:
    """Change a webhook at Gumlet. Properties that are not named keep their values. Shows the changes and asks first.

    Example, after BRIDGE_TOKENS became `new,old`: `gumlet-bridge webhooks update 66f0c3d2a1 --token`
    """
    settings = config.load(config_file)
    if url:
        _check_url(url, settings)
    changes: dict[str, Any] = {"url": url, "sources": source, "triggers": trigger}
    changes = {name: value for name, value in changes.items() if value}
    shown = dict(changes)
    if token:
        if not (known := _tokens(settings)):
            raise ConfigError(NO_TOKEN)
        changes["secret_token"] = known[0].get_secret_value()
        shown["token"] = "the bridge's first token"  # noqa: S105 - a description
    if not changes:
        raise typer.BadParameter("nothing to change: name --url, --source, --trigger or --token")

    async def change() -> Webhook | None:
        async with _api(settings) as api:
            if not _confirm(f"Webhook {webhook_id} will be changed:", shown, dry_run=dry_run, yes=yes):
                return None
            return await api.update_webhook(webhook_id, changes)

    if (changed := asyncio.run(change())) is not None:
        show_rows([_row(changed, settings)], COLUMNS, as_json=False)


@app.command()
def delete(webhook_id: WebhookId, *, yes: Yes = False, config_file: ConfigFile = None) -> None:
    """Delete a webhook: Gumlet no longer sends its events. Shows the webhook and asks first.

    Example: `gumlet-bridge webhooks delete 66f0c3d2a1`
    """
    settings = config.load(config_file)

    async def remove() -> None:
        async with _api(settings) as api:
            found = [each for each in await api.webhooks() if each.id == webhook_id]
            if not found:
                raise BridgeError(f"Gumlet has no webhook {webhook_id}. Fix: an id from `gumlet-bridge webhooks list`.")
            if _confirm("This webhook will be deleted:", _row(found[0], settings), dry_run=False, yes=yes):
                await api.delete_webhook(webhook_id)

    asyncio.run(remove())


@app.command()
def history(
    webhook_id: WebhookId,
    *,
    status: Annotated[str | None, typer.Option(help="Only success, retrying or failed.")] = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the outcome of a webhook's deliveries. Changes nothing.

    Gumlet does not send failed deliveries again: `gumlet-bridge reconcile` publishes their events.

    Example: `gumlet-bridge webhooks history 66f0c3d2a1 --status failed`
    """
    settings = config.load(config_file)

    async def find() -> list[dict[str, Any]]:
        async with _api(settings) as api:
            return [
                {
                    "created_at": each.created_at,
                    "event": each.event,
                    "asset_id": each.asset_id,
                    "status": each.status,
                    "retries": each.retries,
                    "id": each.id,
                }
                for each in await api.history(webhook_id)
                if status in (None, each.status)
            ]

    columns = ("created_at", "event", "asset_id", "status", "retries")
    empty = f"No {status} deliveries." if status else "Gumlet has not sent anything to this webhook yet."
    show_rows(asyncio.run(find()), columns, as_json=as_json, empty=empty)


def _check_url(url: str, settings: Settings) -> None:
    if problem := url_error(url, settings.allowed_sources):
        raise typer.BadParameter(problem, param_hint="--url")


async def _update_existing(  # noqa: PLR0913 - the webhook, the wanted values, and how to confirm
    api: GumletApi,
    webhook: Webhook,
    triggers: list[str],
    token: SecretStr,
    settings: Settings,
    *,
    dry_run: bool,
    yes: bool,
) -> Webhook | None:
    """Update what differs from the wanted values; change nothing when nothing differs."""
    changes: dict[str, Any] = {}
    if set(webhook.triggers) != set(triggers):
        changes["triggers"] = triggers
    if webhook.token not in _tokens(settings):
        changes["secret_token"] = token.get_secret_value()
    if not changes:
        echo(f"Webhook {webhook.id} exists and is up to date; nothing to do.")
        return webhook
    title = f"Webhook {webhook.id} exists and will be changed:"
    if not _confirm(title, {"changes": sorted(changes)}, dry_run=dry_run, yes=yes):
        return None
    return await api.update_webhook(webhook.id, changes)


def _confirm(title: str, properties: dict[str, Any], *, dry_run: bool, yes: bool) -> bool:
    """Show a change and ask; return False for a dry run."""
    echo(title)
    for name, value in properties.items():
        echo(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")
    if dry_run:
        return False
    confirm("Proceed?", yes=yes)
    return True


def _tokens(settings: Settings) -> list[SecretStr]:
    """Return every token that the bridge accepts, in the order of the configuration."""
    Tokens.from_settings(
        settings.model_copy(update={"allow_unauthenticated": True})
    )  # raises for a token that is not valid
    from_file = active_tokens(settings.tokens_file) if settings.tokens_file else []
    return [*settings.token_list, *map(SecretStr, from_file)]


def _row(webhook: Webhook, settings: Settings) -> dict[str, Any]:
    token = "none" if webhook.token is None else "the bridge's" if webhook.token in _tokens(settings) else "another"
    return {
        "id": webhook.id,
        "url": webhook.url,
        "sources": list(webhook.sources),
        "triggers": list(webhook.triggers),
        "token": token,
    }


@asynccontextmanager
async def _api(settings: Settings) -> AsyncIterator[GumletApi]:
    async with gumlet_api(settings.gumlet, echo) as api:
        yield api
