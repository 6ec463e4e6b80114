"""`gumlet-bridge schemas`: list, show, bundle, document and compare the contract's files."""

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
from bridge.contract.references import bundle, bundle_union, dereference, for_consumers, read_files
from bridge.contract.schemas import COMMON, DEAD_LETTER, UNRECOGNIZED, Contract, Topic, schemas_directory
from bridge.devtools import asyncapi, git_baseline, schema_reference
from bridge.devtools.schema_compatibility import BACKWARD, FORWARD, TopicCompatibility, compare
from bridge.errors import BridgeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="List, show, bundle, document and check the contract's files, and register them in a schema registry. Needs "
    "no Kafka.",
)

Write = Annotated[bool, typer.Option("--write", help="Write the file into the directory of the schemas.")]
Check = Annotated[bool, typer.Option("--check", help="Exit 1 if the file on disk is out of date; write nothing.")]


@app.command("list")
def list_schemas(directory: Directory = None) -> None:
    """Show each event type with its version, key and number of properties.

    Example: `gumlet-bridge schemas list`
    """
    table = Table(Column("event type", no_wrap=True), "version", "key", "properties", "title")
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
    """Print the schema of one event type as one self-contained document, as `bundle` writes it.

    Example: `gumlet-bridge schemas show video.status.ready | jq .properties`
    """
    topics = {topic.event_type: topic for topic in _topics(directory)}
    if event_type not in topics:
        raise BridgeError(
            f"{event_type} is not an event type of the contract. Fix: use one of `gumlet-bridge schemas list`."
        )
    topic = topics[event_type]
    text = _json(for_consumers(bundle(topic.schema, read_files(topic.path.parent))))
    console = Console()
    if console.is_terminal:
        console.print(JSON(text))
    else:
        typer.echo(text)


@app.command("bundle")
def bundle_(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="The directory to write to; it is created if it is missing.")
    ],
    directory: Directory = None,
    *,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline", help="Replace each reference with its target, instead of putting the targets into $defs."
        ),
    ] = False,
) -> None:
    """Write each schema as one self-contained file, for the code generators and validators of consumers.

    Objects are open: properties that are added later are valid. `any-event.json` is one schema of any typed event
    (`oneOf`, decided by the `enum` of `type`, which has one value); generators turn it into a tagged union.

    Examples:
    - shared definitions as types of their own: `gumlet-bridge schemas bundle build/schemas`

    - for a tool that cannot follow references: `gumlet-bridge schemas bundle build/schemas --inline`
    """
    topics = _topics(directory)
    files = read_files(topics[0].path.parent)
    if target.resolve() == topics[0].path.parent.resolve():
        raise BridgeError(f"{target} holds the schemas themselves. Fix: name another directory.")
    try:
        target.mkdir(parents=True, exist_ok=True)
        form = dereference if inline else bundle
        bundles = {topic.event_type: for_consumers(form(topic.schema, files)) for topic in topics}
        union = bundle_union({name: bundles[name] for name in bundles.keys() - {DEAD_LETTER, UNRECOGNIZED}})
        for schema in (*bundles.values(), union):
            (target / schema["$id"]).write_text(_json(schema) + "\n")
    except OSError as error:
        raise BridgeError(f"{target} cannot be written: {error.strerror}") from error
    Console().print(f"{len(topics)} schemas and {union['$id']} in {target}; {COMMON} is part of each.")


@app.command("check")
def check_(
    directory: Directory = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REF|DIRECTORY",
            help="The baseline: a git reference or a directory. Default: the newest tag, else where this branch "
            "left the remote's default branch, else the previous commit.",
        ),
    ] = None,
) -> None:
    """Compare the schemas with an earlier state; exit 1 if a change breaks consumers or old records.

    **BACKWARD**: old records are valid for the new schema. **FORWARD**: old consumers, which ignore unknown properties,
    understand new records. Both must hold, unless the version (`x-topic.version`) was raised: that makes a new topic.

    Examples:
    - changes since a release: `gumlet-bridge schemas check --against v1.2.0`

    - against a copy: `gumlet-bridge schemas check --against /srv/schemas-in-production`
    """
    schemas = directory or schemas_directory()
    _contract(schemas)  # an invalid contract is an error of its own
    reference = against or git_baseline.default_ref(schemas)
    console = Console(soft_wrap=True)
    if reference is None:
        console.print(f"NOT CHECKED: {schemas} is not in a git repository. Fix: --against DIRECTORY", style="yellow")
        return
    topics = compare(git_baseline.read(reference, schemas), read_files(schemas))
    for topic in topics:
        _print_changes(console, topic)
    if incompatible := [topic for topic in topics if not topic.allowed]:
        raise BridgeError(
            f"{len(incompatible)} of {len(topics)} changed topics are incompatible with {reference}. "
            "Fix: undo the change, or raise x-topic.version, which makes a new topic."
        )
    console.print(f"{len(topics)} topics changed since {reference}: compatible.", highlight=False)


def _print_changes(console: Console, topic: TopicCompatibility) -> None:
    kept = " and ".join(name for name in (BACKWARD, FORWARD) if name not in topic.breaks)
    state = f"version {topic.new_version}, a new topic" if topic.version_bumped else kept or "incompatible"
    color = "green" if topic.allowed else "red"
    console.print(f"[{color}]{topic.event_type}[/]: {state}", highlight=False)
    for change in topic.changes:
        breaks = f" (breaks {' and '.join(sorted(change.breaks))})" if change.breaks else ""
        console.print(f"  {change.pointer or '/'}: {change.description}{breaks}", highlight=False, markup=False)


@app.command("asyncapi")
def asyncapi_(directory: Directory = None, *, write: Write = False, check: Check = False) -> None:
    """Print the contract as an AsyncAPI 3.0 document, generated from the schema files.

    Examples:
    - write it into the directory of the schemas: `gumlet-bridge schemas asyncapi --write`

    - check that the file on disk is up to date: `gumlet-bridge schemas asyncapi --check`
    """
    _output(directory, asyncapi.FILE, asyncapi.render(_contract(directory)), write=write, check=check)


@app.command()
def docs(directory: Directory = None, *, write: Write = False, check: Check = False) -> None:
    """Print the schema reference for people: a consumer's guide, the topics, every property.

    Examples:
    - write it into the directory of the schemas: `gumlet-bridge schemas docs --write`

    - check that the file on disk is up to date: `gumlet-bridge schemas docs --check`
    """
    _output(directory, schema_reference.FILE, schema_reference.render(_contract(directory)), write=write, check=check)


app.command()(schemas_registry.register)
app.command()(schemas_registry.status)
app.command()(schemas_drift.drift)


def _output(directory: Path | None, name: str, text: str, *, write: bool, check: bool) -> None:
    path = (directory or schemas_directory()) / name
    if write:
        path.write_text(text)
    elif not check:
        typer.echo(text, nl=False)
    elif not path.is_file() or path.read_text() != text:
        command = "asyncapi" if name == asyncapi.FILE else "docs"
        raise BridgeError(f"{path} is out of date with the schema files. Fix: gumlet-bridge schemas {command} --write")


def _contract(directory: Path | None) -> Contract:
    # The default prefix, not the configured one: the generated files are the same everywhere.
    return Contract.load(directory=directory)


def _topics(directory: Path | None) -> list[Topic]:
    return sorted(_contract(directory).topics.values(), key=lambda topic: topic.event_type)


def _json(document: object) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
