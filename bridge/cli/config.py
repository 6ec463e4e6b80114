"""`gumlet-bridge config`: what can be set, what is set, and whether it is right."""

from __future__ import annotations

import typer

from bridge.cli.output import ConfigFile
from bridge.config import settings as config
from bridge.config.rendering import as_toml, example
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.ingress.tokens import Tokens
from bridge.kafka.client import client_options
from bridge.publisher.registry_encoder import create_encoder

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="The configuration: show, check, example.")


@app.command()
def show(config_file: ConfigFile = None) -> None:
    """Print what is in force, from all sources together, as a TOML file. Secrets are asterisks."""
    typer.echo(as_toml(config.load(config_file)), nl=False)


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Check everything that `gumlet-bridge serve` checks before it starts; exit with 78 and each mistake with its fix."""
    settings = config.load(config_file, serving=True)
    Tokens.from_settings(settings)
    client_options(settings.kafka)
    contract = Contract.load(settings.topics.prefix)
    Normalizer(contract)
    create_encoder(settings.registry, contract)
    typer.echo("The configuration is right.")


@app.command("example")
def show_example() -> None:
    """Print a TOML file with every setting, its meaning and its default: `gumlet-bridge config example > bridge.toml`."""
    typer.echo(
        "# Every setting, at its default. Remove the # to change one.\n"
        "# The environment has the same names: [journal] max_bytes is BRIDGE_JOURNAL_MAX_BYTES.\n\n"
        + example(config.Settings),
        nl=False,
    )
