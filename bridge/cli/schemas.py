"""`gumlet-bridge schemas`: the contract's files shown, bundled, described, and compared with what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.json import JSON
from rich.table import Column, Table

from bridge.cli import schemas_drift, schemas_registry
from bridge.cli.schemas_registry import Directory
from bridge.contract.references import bundled, expanded, read_files
from bridge.contract.schemas import COMMON, Contract, Topic, schemas_directory
from bridge.devtools import asyncapi
from bridge.devtools import git_baseline as baseline
from bridge.devtools import schema_reference as contract_page
from bridge.devtools.schema_compatibility import BACKWARD, FORWARD, TopicCompatibility, compare
from bridge.errors import BridgeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="The contract's files: list, show, bundle, describe, check for compatibility, put into a registry. Needs no "
    "Kafka.",
)

Write = Annotated[bool, typer.Option("--write", help="Write the file in the directory of the schemas.")]
Check = Annotated[bool, typer.Option("--check", help="Only fail with 1 when the file there is another.")]


@app.command("list")
def list_schemas(directory: Directory = None) -> None:
    """Show each event type with its version, key and number of properties.

    Example: `gumlet-bridge schemas list`
    """
    table = Table(Column("event type", no_wrap=True), "version", "key", "properties", "what happened")
    for topic in _topics(directory):
        schema = topic.schema
        key = topic.key or "-"
        if topic.key and topic.key not in schema.get("required", []):
            key += " or none"
        table.add_row(topic.event_type, str(topic.version), key, str(len(schema["properties"])), schema["title"])
    Console().print(table)


@app.command()
def show(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="The event type: `gumlet-bridge schemas list`.")],
    directory: Directory = None,
) -> None:
    """Print the schema of one event type, whole: its references are inside.

    Example: `gumlet-bridge schemas show video.status.ready | jq .properties`
    """
    topics = {topic.event_type: topic for topic in _topics(directory)}
    if event_type not in topics:
        raise BridgeError(
            f"{event_type} is no event type of the contract. Fix: take one of `gumlet-bridge schemas list`."
        )
    topic = topics[event_type]
    text = _json(bundled(topic.schema, read_files(topic.path.parent)))
    console = Console()
    if console.is_terminal:
        console.print(JSON(text))
    else:
        typer.echo(text)


@app.command()
def bundle(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="The directory to write to; made if it is not there.")
    ],
    directory: Directory = None,
    *,
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Put what is referred to in its place; without it, it is in each file's $defs."),
    ] = False,
) -> None:
    """Write each schema as one file that needs no other: for code generators, registries and validators.

    Examples:
    - with shared definitions as types of their own: `gumlet-bridge schemas bundle build/schemas`

    - for a tool that does not follow references: `gumlet-bridge schemas bundle build/schemas --inline`
    """
    topics = _topics(directory)
    files = read_files(topics[0].path.parent)
    if target.resolve() == topics[0].path.parent.resolve():
        raise BridgeError(f"{target} holds the schemas themselves. Fix: name another directory.")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for topic in topics:
            whole = (expanded if inline else bundled)(topic.schema, files)
            (target / topic.path.name).write_text(_json(whole) + "\n")
    except OSError as error:
        raise BridgeError(f"{target} cannot be written: {error.strerror}") from error
    Console().print(f"{len(topics)} files in {target}; {COMMON} is inside each.")


@app.command("check")
def check_(
    directory: Directory = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REF|DIRECTORY",
            help="What to compare with: a git reference or a directory. If left out: the newest tag, else where this "
            "branch left the remote's default branch, else the commit before.",
        ),
    ] = None,
) -> None:
    """Compare the schemas with an earlier state; exit with 1 where a change breaks consumers or old records.

    **BACKWARD**: old records are valid for the new schema. **FORWARD**: old consumers, which ignore what they do not
    know, understand new records. Both must hold, unless the version (`x-topic.version`) was raised: that is a new
    topic beside the old.

    Examples:
    - what changed since a release: `gumlet-bridge schemas check --against v1.2.0`

    - against a copy: `gumlet-bridge schemas check --against /srv/schemas-in-production`
    """
    place = directory or schemas_directory()
    _contract(place)  # what is no contract is not worth comparing
    reference = against or baseline.default(place)
    console = Console(soft_wrap=True)
    if reference is None:
        console.print(f"NOT CHECKED: {place} is in no git repository. Fix: --against DIRECTORY", style="yellow")
        return
    verdicts = compare(baseline.read(reference, place), read_files(place))
    for verdict in verdicts:
        _tell(console, verdict)
    if bad := [verdict for verdict in verdicts if not verdict.allowed]:
        raise BridgeError(
            f"{len(bad)} of {len(verdicts)} changed topics are incompatible with {reference}. "
            "Fix: undo the change, or raise x-topic.version, which makes a new topic beside the old."
        )
    console.print(f"{len(verdicts)} topics changed since {reference}: compatible.", highlight=False)


def _tell(console: Console, verdict: TopicCompatibility) -> None:
    survives = " and ".join(name for name in (BACKWARD, FORWARD) if name not in verdict.breaks)
    state = f"version {verdict.new_version}, a new topic" if verdict.raised else survives or "neither survives"
    color = "green" if verdict.allowed else "red"
    console.print(f"[{color}]{verdict.event_type}[/]: {state}", highlight=False)
    for change in verdict.changes:
        breaks = f" (breaks {' and '.join(sorted(change.breaks))})" if change.breaks else ""
        console.print(f"  {change.pointer or '/'}: {change.what}{breaks}", highlight=False, markup=False)


@app.command("asyncapi")
def asyncapi_(directory: Directory = None, *, write: Write = False, check: Check = False) -> None:
    """Print the contract as an AsyncAPI 3.0 document, made from the schema files.

    Examples:
    - write it beside the schemas: `gumlet-bridge schemas asyncapi --write`

    - is the one there what the schemas say: `gumlet-bridge schemas asyncapi --check`
    """
    _made(directory, asyncapi.FILE, asyncapi.render(_contract(directory)), write=write, check=check)


@app.command()
def page(directory: Directory = None, *, write: Write = False, check: Check = False) -> None:
    """Print the contract as a page for people: a consumer's guide, the topics, every property.

    Examples:
    - write it beside the schemas: `gumlet-bridge schemas page --write`

    - is the one there what the schemas say: `gumlet-bridge schemas page --check`
    """
    _made(directory, contract_page.FILE, contract_page.render(_contract(directory)), write=write, check=check)


app.command()(schemas_registry.register)
app.command()(schemas_registry.status)
app.command()(schemas_drift.drift)


def _made(directory: Path | None, name: str, text: str, *, write: bool, check: bool) -> None:
    path = (directory or schemas_directory()) / name
    if write:
        path.write_text(text)
    elif not check:
        typer.echo(text, nl=False)
    elif not path.is_file() or path.read_text() != text:
        command = "asyncapi" if name == asyncapi.FILE else "page"
        raise BridgeError(f"{path} is not what the schema files say. Fix: gumlet-bridge schemas {command} --write")


def _contract(directory: Path | None) -> Contract:
    # The contract's own prefix, whatever this machine is configured to: the files are the same everywhere.
    return Contract.load(directory=directory)


def _topics(directory: Path | None) -> list[Topic]:
    return sorted(_contract(directory).topics.values(), key=lambda topic: topic.event_type)


def _json(document: object) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
