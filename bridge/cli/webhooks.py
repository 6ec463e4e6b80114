"""`gumlet-bridge webhooks`: what Gumlet sends where, and making it send here with the token that the bridge believes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from bridge.cli.output import AsJson, ConfigFile, show_rows
from bridge.config import settings as config
from bridge.errors import BridgeError, ConfigError
from bridge.ingress.tokens import Tokens, active_tokens
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.webhook import is_same_url, url_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.config.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Gumlet's webhooks: list, subscribe, update, delete, history. Needs BRIDGE_GUMLET_API_KEY.",
)

COLUMNS = ("id", "url", "sources", "triggers", "token")
Identity = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id at Gumlet.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(as_json: AsJson = False, config_file: ConfigFile = None) -> None:  # noqa: FBT002
    """List the account's webhooks, and whether each sends a token that the bridge is configured with.

    Example: `gumlet-bridge webhooks list`
    """
    settings = config.load(config_file)

    async def find() -> list[Webhook]:
        async with _api(settings) as api:
            return await api.webhooks()

    show_rows([_row(each, settings) for each in asyncio.run(find())], COLUMNS, as_json=as_json)


@app.command()
def subscribe(  # noqa: PLR0913, PLR0917 - one parameter for each option
    url: Annotated[str, typer.Option(help="Where Gumlet reaches the bridge: https://HOST/webhooks/gumlet/SOURCE.")],
    source: Annotated[list[str], typer.Option(help="Id of a workspace (collection) at Gumlet; may be repeated.")],
    trigger: Annotated[list[str] | None, typer.Option(help="status, or single event types.")] = None,
    dry_run: DryRun = False,  # noqa: FBT002
    yes: Yes = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Make Gumlet send its webhooks to the bridge, with the first token that the bridge is configured with.

    Shows first what will be sent. A webhook with the same URL and sources is not made twice: it is made right if its
    token or triggers differ.

    Example:
    `gumlet-bridge webhooks subscribe --url https://hooks.example.com/webhooks/gumlet --source 5f462c1561cf8a766464ffc4`
    """
    settings = config.load(config_file)
    _check_url(url, settings)
    triggers = trigger or ["status"]
    token = _tokens(settings)[:1]
    if not token:
        raise ConfigError("No token to give to Gumlet. Fix: BRIDGE_TOKENS or BRIDGE_TOKENS_FILE, as the daemon has it.")

    async def make() -> Webhook | None:
        async with _api(settings) as api:
            existing = [
                each for each in await api.webhooks() if is_same_url(each.url, url) and set(each.sources) == set(source)
            ]
            if existing:
                return await _update_existing(api, existing[0], triggers, token[0], settings, dry_run=dry_run, yes=yes)
            wanted = Webhook("(new)", url, tuple(source), tuple(triggers), token[0])
            if not _confirm("Gumlet will be told:", _row(wanted, settings), dry_run=dry_run, yes=yes):
                return None
            return await api.create_webhook(url, source, triggers, token[0])

    if (made := asyncio.run(make())) is not None:
        show_rows([_row(made, settings)], COLUMNS, as_json=False)


@app.command()
def update(  # noqa: PLR0913, PLR0917 - one parameter for each option
    identity: Identity,
    url: Annotated[str | None, typer.Option(help="The new URL.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="The new sources, all of them; may be repeated.")] = None,
    trigger: Annotated[list[str] | None, typer.Option(help="The new triggers, all of them.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Send the bridge's first token: for rotation.")] = False,  # noqa: FBT002
    dry_run: DryRun = False,  # noqa: FBT002
    yes: Yes = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Change a webhook. What is not named stays.

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
            raise ConfigError("No token to give to Gumlet. Fix: BRIDGE_TOKENS or BRIDGE_TOKENS_FILE.")
        changes["secret_token"] = known[0].get_secret_value()
        shown["token"] = "the bridge's first"  # noqa: S105 - no token
    if not changes:
        raise typer.BadParameter("nothing to change: name --url, --source, --trigger or --token")

    async def change() -> Webhook | None:
        async with _api(settings) as api:
            if not _confirm(f"Webhook {identity} will have:", shown, dry_run=dry_run, yes=yes):
                return None
            return await api.update_webhook(identity, changes)

    if (changed := asyncio.run(change())) is not None:
        show_rows([_row(changed, settings)], COLUMNS, as_json=False)


@app.command()
def delete(identity: Identity, yes: Yes = False, config_file: ConfigFile = None) -> None:  # noqa: FBT002
    """Remove a webhook: Gumlet then sends nothing there any more.

    Example: `gumlet-bridge webhooks delete 66f0c3d2a1`
    """
    settings = config.load(config_file)

    async def remove() -> None:
        async with _api(settings) as api:
            found = [each for each in await api.webhooks() if each.id == identity]
            if not found:
                raise BridgeError(f"Gumlet has no webhook {identity}. Fix: an id from `gumlet-bridge webhooks list`.")
            if _confirm("This webhook will be removed:", _row(found[0], settings), dry_run=False, yes=yes):
                await api.delete_webhook(identity)

    asyncio.run(remove())


@app.command()
def history(
    identity: Identity,
    status: Annotated[str | None, typer.Option(help="Only success, retrying or failed.")] = None,
    as_json: AsJson = False,  # noqa: FBT002
    config_file: ConfigFile = None,
) -> None:
    """Show what became of a webhook's deliveries. What failed never comes again: see `gumlet-bridge reconcile`.

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
                for each in await api.history(identity)
                if status in (None, each.status)
            ]

    show_rows(asyncio.run(find()), ("created_at", "event", "asset_id", "status", "retries"), as_json=as_json)


def _check_url(url: str, settings: Settings) -> None:
    if problem := url_error(url, settings.allowed_sources):
        raise typer.BadParameter(problem, param_hint="--url")


async def _update_existing(  # noqa: PLR0913 - what there is, what is wanted, and how to ask
    api: GumletApi,
    webhook: Webhook,
    triggers: list[str],
    token: SecretStr,
    settings: Settings,
    *,
    dry_run: bool,
    yes: bool,
) -> Webhook | None:
    """Make an existing webhook right; change nothing when it is."""
    changes: dict[str, Any] = {}
    if set(webhook.triggers) != set(triggers):
        changes["triggers"] = triggers
    if webhook.token not in _tokens(settings):
        changes["secret_token"] = token.get_secret_value()
    if not changes:
        typer.echo(f"Gumlet already has it as webhook {webhook.id}; nothing to do.", err=True)
        return webhook
    if not _confirm(
        f"Webhook {webhook.id} exists; what differs:", {"changes": sorted(changes)}, dry_run=dry_run, yes=yes
    ):
        return None
    return await api.update_webhook(webhook.id, changes)


def _confirm(title: str, what: dict[str, Any], *, dry_run: bool, yes: bool) -> bool:
    typer.echo(title, err=True)
    for name, value in what.items():
        typer.echo(f"  {name}: {', '.join(value) if isinstance(value, list) else value}", err=True)
    return not dry_run and (yes or typer.confirm("Do it?", abort=True, err=True))


def _tokens(settings: Settings) -> list[SecretStr]:
    """Return every token that the bridge believes, the first first."""
    Tokens.from_settings(settings.model_copy(update={"allow_unauthenticated": True}))  # what cannot be used is told
    filed = active_tokens(settings.tokens_file.read_text()) if settings.tokens_file else []
    return [*settings.token_list, *map(SecretStr, filed)]


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
    async with gumlet_api(settings.gumlet, lambda words: typer.echo(words, err=True)) as api:
        yield api
