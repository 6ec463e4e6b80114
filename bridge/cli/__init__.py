"""The command line: one module per command, imported only when that command runs.

Exit codes: 0 success, 1 failure, 2 usage error, 75 temporary failure (another process holds the journal), 78 invalid
configuration, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bridge.errors import BridgeError

COMMANDS = {
    "serve": "bridge.cli.serve",
    "dev": "bridge.cli.dev",
    "simulate": "bridge.cli.simulate",
    "mock-gumlet": "bridge.cli.mock_gumlet",
    "topics": "bridge.cli.topics",
    "schemas": "bridge.cli.schemas",
    "dead-letter": "bridge.cli.dead_letter",
    "tail": "bridge.cli.tail",
    "assets": "bridge.cli.assets",
    "webhooks": "bridge.cli.webhooks",
    "journal": "bridge.cli.journal",
    "reconcile": "bridge.cli.reconcile",
    "doctor": "bridge.cli.doctor",
    "config": "bridge.cli.config",
    "health": "bridge.cli.health",
}
"""The module of each command; it has a Typer `app`."""


class _Lazy(TyperGroup):
    """The root group, which imports a command when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        for each in (command, *getattr(command, "commands", {}).values()):
            _hide_flag_types(each.get_params(typer.Context(each)))
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        return _hide_flag_types(super().get_params(ctx))


def _hide_flag_types(params: list[Any]) -> list[Any]:
    """Clear the type that the help shows for each flag: `--json <bool>` reads as if a value were required."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


EPILOG = (
    "Exit codes: 0 success, 1 failure or findings, 2 wrong usage, 75 another process holds the journal (try again "
    "later), 78 invalid configuration, 130 interrupted. Settings come from BRIDGE_... variables or a --config file: "
    "`gumlet-bridge config example` lists them."
)

app = typer.Typer(
    cls=_Lazy,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EPILOG,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, secrets included
)


def _version(asked: bool) -> None:  # noqa: FBT001 - the signature of a Typer callback
    if asked:
        typer.echo(f"gumlet-bridge {version('gumlet-kafka-bridge')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Publish Gumlet's webhooks to Kafka, at least once: a webhook is acknowledged when it is on disk.

    Start with `gumlet-bridge dev`: a broker, the bridge and a live view of every event, without further installation.
    """


def main() -> None:
    """Run the command line; a BridgeError ends it with its messages and its exit code."""
    try:
        app()
    except BridgeError as error:
        sys.exit(_print_errors([error]))
    except BaseExceptionGroup as group:
        ours, others = group.split(BridgeError)
        if ours is None or others is not None:
            raise
        sys.exit(_print_errors(list(_flatten(ours))))


def _flatten(group: BaseExceptionGroup[Any]) -> Any:
    for error in group.exceptions:
        yield from _flatten(error) if isinstance(error, BaseExceptionGroup) else [error]


def _print_errors(errors: list[BridgeError]) -> int:
    from bridge.telemetry.logging import printable  # noqa: PLC0415 - imports structlog, which `--help` does not need

    for error in errors:
        for line in str(error).splitlines():
            typer.echo(f"gumlet-bridge: {printable(line)}", err=True)
    return errors[0].exit_code
