"""What every command's help must have."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from bridge.cli import COMMANDS, app, main
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator


def leaf_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its name."""
    for name, module in COMMANDS.items():
        command = typer.main.get_command(import_module(module).app)
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            yield name, command
        else:
            yield from ((f"{name} {sub}", each) for sub, each in subcommands.items())


LEAVES = dict(leaf_commands())


@pytest.mark.parametrize("name", LEAVES)
def test_help_has_an_example_with_the_commands_name(name: str) -> None:
    """The help of each command shows how to call it."""
    text = " ".join((LEAVES[name].help or "").split())
    assert "Example" in text
    assert f"gumlet-bridge {name}" in text or name == "health"


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_is_explained(name: str) -> None:
    """Each option and argument has a help text."""
    unexplained = [each.name for each in LEAVES[name].params if not getattr(each, "help", "")]
    assert unexplained == []


@pytest.mark.parametrize("name", ["", *COMMANDS, *LEAVES])
def test_help_shows_no_type_for_a_flag(name: str) -> None:
    """A flag takes no value, so its help names no type."""
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert "--help" in result.stdout
    assert "<bool>" not in result.stdout


@pytest.mark.parametrize("name", LEAVES)
def test_several_examples_are_a_list(name: str) -> None:
    """Examples without bullets run together in the rendered help."""
    _, several, examples = (LEAVES[name].help or "").partition("Examples:\n")
    assert not several or examples.startswith("- ")


@pytest.mark.parametrize("module", COMMANDS.values())
def test_completion_is_offered_at_the_top_level_only(module: str) -> None:
    """A command does not repeat the options that install shell completion."""
    command = typer.main.get_command(import_module(module).app)
    assert not any("completion" in (each.name or "") for each in command.params)
    result = CliRunner().invoke(app, ["--help"])
    assert "--install-completion" in result.stdout
    assert "Exit codes" in result.stdout


def test_error_messages_cannot_control_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that quotes text from outside is printed line by line, without control characters."""

    def fail() -> None:
        raise BridgeError("first \x1b[2J\u202e\nsecond\r")

    monkeypatch.setattr("bridge.cli.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "gumlet-bridge: first \\u001b[2J\\u202e",
        "gumlet-bridge: second",
    ]
