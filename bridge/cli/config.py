"""`gumlet-bridge config`: shows the effective configuration, checks it, and prints an example file."""

from __future__ import annotations

import time

import typer

from bridge.cli.output import ConfigFile, echo, make_app
from bridge.config import settings as config
from bridge.config.rendering import render_example_toml, render_toml
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.ingress.tokens import Tokens
from bridge.kafka.client import client_options
from bridge.publisher.registry_encoder import create_encoder
from bridge.telemetry.token_status import NEXT_STEP_EXPIRING, expiry_warning

app = make_app("The configuration: show, check, example.")


@app.command()
def show(config_file: ConfigFile = None) -> None:
    """Print the effective configuration from the environment and the file, as TOML, with secrets masked.

    Example: `gumlet-bridge config show --config bridge.toml`
    """
    typer.echo(render_toml(config.load(config_file)), nl=False)


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Check everything that `gumlet-bridge serve` checks before it starts. Connects to nothing, changes nothing.

    Prints one line for each mistake, with its fix, and ends with exit code 78. A token that has expired or expires
    within seven days is a warning.

    Example: `gumlet-bridge config check && gumlet-bridge topics apply --yes && gumlet-bridge serve`
    """
    settings = config.load(config_file, serving=True)
    tokens = Tokens.from_settings(settings).statuses()
    client_options(settings.kafka)
    contract = Contract.load(settings.topics.prefix)
    Normalizer(contract)
    create_encoder(settings.registry, contract)
    for token in tokens:
        if (warning := expiry_warning(token, time.time())) is not None:
            echo(f"Warning: {warning}. Fix: {NEXT_STEP_EXPIRING}.")
    echo("Configuration OK.")


@app.command("example")
def show_example() -> None:
    """Print a TOML file with every setting, its meaning and its default.

    Example: `gumlet-bridge config example > bridge.toml`
    """
    typer.echo(
        "# Every setting with its default. Uncomment a line to change it.\n"
        "# Environment variables have the same names: [journal] max_bytes is BRIDGE_JOURNAL_MAX_BYTES.\n\n"
        + render_example_toml(config.Settings),
        nl=False,
    )
