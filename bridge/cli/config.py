"""`bridge config`: what can be set, what is set, and whether it is right."""

from __future__ import annotations

import typer

from bridge import config
from bridge.auth import Tokens
from bridge.cli.output import ConfigFile
from bridge.config_report import as_toml, example
from bridge.contract import Contract
from bridge.framing import sender_factory
from bridge.kafka import client_options
from bridge.normalize import Normalizer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="The configuration: show, check, example.")


@app.command()
def show(config_file: ConfigFile = None) -> None:
    """Print what is in force, from all sources together, as a TOML file. Secrets are asterisks."""
    typer.echo(as_toml(config.load(config_file)), nl=False)


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Check everything that `bridge serve` checks before it starts; exit with 78 and each mistake with its fix."""
    settings = config.load(config_file, serving=True)
    Tokens.of(settings)
    client_options(settings.kafka)
    contract = Contract.load(settings.topics.prefix)
    Normalizer(contract)
    sender_factory(settings.registry, contract)
    typer.echo("The configuration is right.")


@app.command("example")
def show_example() -> None:
    """Print a TOML file with every setting, its meaning and its default: `bridge config example > bridge.toml`."""
    typer.echo(
        "# Every setting, at its default. Remove the # to change one.\n"
        "# The environment has the same names: [journal] max_bytes is BRIDGE_JOURNAL_MAX_BYTES.\n\n"
        + example(config.Settings),
        nl=False,
    )
