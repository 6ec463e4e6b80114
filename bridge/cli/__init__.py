"""The command line: one module for each command, imported only when that command is called.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 try again later (the journal is in use), 78 wrong configuration,
130 interrupted.
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
"""Each command's module; it has a Typer `app`."""


class _Lazy(TyperGroup):
    """The root: knows the names, imports a command when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_Lazy, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


def _version(asked: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if asked:
        typer.echo(f"gumlet-bridge {version('gumlet-kafka-bridge')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Gumlet's webhooks on Kafka: acknowledged once durable, published once or more, never not at all.

    Begin with `gumlet-bridge dev`: a broker, the bridge and a live view of every event, with nothing to install.
    """


def main() -> None:
    """Run the command line; a BridgeError ends it with its message and its exit code."""
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
    for each in group.exceptions:
        yield from _flatten(each) if isinstance(each, BaseExceptionGroup) else [each]


def _print_errors(errors: list[BridgeError]) -> int:
    for error in errors:
        for line in str(error).splitlines():
            typer.echo(f"gumlet-bridge: {line}", err=True)
    return errors[0].exit_code
