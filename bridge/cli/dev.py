"""`gumlet-bridge dev`: the whole way from webhook to topic in one process, with nothing to install.

The daemon is the one that `gumlet-bridge serve` runs; the broker is librdkafka's embedded one, gone with the process.
A consumer prints each event as it reaches its topic. A Kafka that the configuration names is not used unless
`--kafka` says so: trying something out must not publish to it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from rich.console import Console
from rich.text import Text

from bridge import daemon
from bridge.cli.output import ConfigFile, printable
from bridge.config import settings as config
from bridge.contract.schemas import Contract, schemas_directory
from bridge.devtools.embedded_broker import EmbeddedBroker
from bridge.errors import BridgeError
from bridge.kafka.client import client_options
from bridge.kafka.wire_format import unframed
from bridge.telemetry import logging as log
from bridge.webhook import TOKEN_HEADER, WEBHOOK_PATH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiokafka import ConsumerRecord

    from bridge.config.settings import Settings
    from bridge.daemon import Addresses

TOKEN = "dev"  # noqa: S105 - the token of a bridge that only this machine reaches
LISTEN = "127.0.0.1:8080"
"""Where to listen unless configured: a bridge whose token everybody knows is not for the network."""
EXAMPLE = Path("examples/video.status.ready/full.in.json")
TOPICS_SECONDS = 10.0
"""How long to wait for the daemon to create what is missing on a Kafka given by `--kafka`."""

app = typer.Typer(rich_markup_mode="markdown")

_STYLES = {"dead-letter": "red", "unrecognized": "yellow", "errored": "red", "ready": "green"}


@app.command()
def dev(
    config_file: ConfigFile = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Use this Kafka in place of the embedded broker.", show_default=False),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to take webhooks. Port 0: any free one.", show_default=LISTEN),
    ] = None,
) -> None:
    """Run the bridge with a broker of its own, and print each event as it reaches its topic.

    Nothing to install, nothing left behind: broker and journal end with Ctrl-C. Post the example that the
    first lines show, or let `gumlet-bridge simulate` play Gumlet from a second terminal.

    Examples:
    `gumlet-bridge dev`

    `gumlet-bridge dev --listen 127.0.0.1:9000`

    `gumlet-bridge dev --kafka localhost:9092`
    """
    with _broker(kafka) as bootstrap_servers, TemporaryDirectory(prefix="bridge-dev-") as directory:
        settings = _settings(config_file, bootstrap_servers, listen, Path(directory), embedded=kafka is None)
        log.configure(settings.log)
        uvloop.run(_run(settings, embedded=kafka is None))


@contextmanager
def _broker(kafka: str | None) -> Iterator[str]:
    if kafka is not None:
        yield kafka
        return
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


def _settings(
    config_file: Path | None, bootstrap_servers: str, listen: str | None, directory: Path, *, embedded: bool
) -> Settings:
    """Return what is configured, with what suits a trial wherever nothing is."""
    configured = config.load(config_file)
    overrides: dict[str, Any] = {"kafka": {"bootstrap_servers": bootstrap_servers}}
    if embedded:
        overrides["kafka"]["security_protocol"] = "PLAINTEXT"
        overrides["topics"] = {"provision": "off"}  # it has no admin API, and makes a topic when one is asked for
    if listen is not None:
        overrides["listen"] = listen
    elif "listen" not in configured.model_fields_set:
        overrides["listen"] = LISTEN
    if not (configured.token_list or configured.tokens_file or configured.allow_unauthenticated):
        overrides["tokens"] = TOKEN
    if "dir" not in configured.journal.model_fields_set:
        overrides["journal"] = {"dir": directory}
    if "format" not in configured.log.model_fields_set:
        overrides["log"] = {"format": "console"}
    return config.load(config_file, serving=True, **overrides)


async def _run(settings: Settings, *, embedded: bool) -> None:
    """Run until SIGINT or SIGTERM: the daemon drains, and what it drained is printed too."""
    console = Console(highlight=False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    ready: asyncio.Future[Addresses] = loop.create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(daemon.run(settings, ready=ready.set_result, stop=stop))
        addresses = await ready
        async with _consumer(settings, embedded=embedded) as consumer:
            console.print(_first_screen(settings, addresses, embedded=embedded), soft_wrap=True)
            printing = tasks.create_task(_print(consumer, console))
            await serving
            printing.cancel()


@asynccontextmanager
async def _consumer(settings: Settings, *, embedded: bool) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of every topic of the contract that begins with what is published from now on."""
    options = client_options(settings.kafka)
    topics = {topic.name for topic in Contract.load(settings.topics.prefix).topics.values()}
    if not embedded:
        topics = await _existing(topics, options)
    # No group: nothing is left behind on a Kafka that others share.
    consumer = AIOKafkaConsumer(*topics, auto_offset_reset="earliest", fetch_max_wait_ms=50, **options)
    try:
        await consumer.start()
        if not embedded:
            await consumer.seek_to_end()
        yield consumer
    finally:
        await consumer.stop()


async def _existing(wanted: set[str], options: dict[str, Any]) -> set[str]:
    """Wait for the daemon to create its topics, and return those that are there.

    A consumer that asked for a missing topic first would have Kafka make it in its own way.
    """
    lister = AIOKafkaConsumer(**options)
    try:
        await lister.start()
        there: set[str] = wanted & await lister.topics()
        with suppress(TimeoutError):
            async with asyncio.timeout(TOPICS_SECONDS):
                while there != wanted:
                    await asyncio.sleep(0.2)
                    there = wanted & await lister.topics()
    except KafkaConnectionError as error:
        raise BridgeError(
            f"no Kafka at {', '.join(options['bootstrap_servers'])}. "
            "Fix: start it, or leave out --kafka for the embedded broker."
        ) from error
    finally:
        await lister.stop()
    if not there:
        raise BridgeError("Kafka has none of the bridge's topics. Fix: BRIDGE_TOPICS_PROVISION=create")
    return there


async def _print(consumer: AIOKafkaConsumer, console: Console) -> None:
    async for record in consumer:
        console.print(event_line(unframed(record)), soft_wrap=True)


def event_line(record: ConsumerRecord) -> Text:
    """Return one line about an event: when it was received, where it is, its key, what it says."""
    kind = record.topic.rpartition(".")[2]
    key = record.key.decode(errors="replace") if record.key else "-"
    time = datetime.fromtimestamp(record.timestamp / 1000).astimezone()
    return Text.assemble(
        (f"{time:%H:%M:%S}.{time.microsecond // 1000:03}", "dim"),
        ("  ", ""),
        (record.topic, _STYLES.get(kind, "cyan")),
        (f"  {record.partition}/{record.offset}", "dim"),
        (f"  {printable(key)}  ", "bold"),
        (printable(_summary(record.value)), ""),
    )


def _summary(value: bytes) -> str:
    record = orjson.loads(value)
    if "body_base64" in record:
        return f"{record['reason']} {record.get('pointer', '')}: {record['detail']}"
    if "event" in record:
        return orjson.dumps(record["event"]).decode()[:100]
    said = [record.get("status"), record.get("title")]
    if "progress_percent" in record:
        said.insert(1, f"{record['progress_percent']}%")
    problems = [record["error"]] if "error" in record else record.get("warnings", [])
    said += [problem.get("code") or problem.get("message") for problem in problems]
    return "  ".join(str(each) for each in said if each)


def _first_screen(settings: Settings, addresses: Addresses, *, embedded: bool) -> Text:
    public = addresses.public.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    url = f"{public}{WEBHOOK_PATH}"
    example = schemas_directory() / EXAMPLE
    if example.is_relative_to(Path.cwd()):
        example = example.relative_to(Path.cwd())
    configured = bool(settings.tokens_file) or [each.get_secret_value() for each in settings.token_list] != [TOKEN]
    if not (settings.token_list or settings.tokens_file):
        token, shown = None, "none asked for"
    elif configured:
        token, shown = '"$TOKEN"', "as configured: set TOKEN to it for the lines below"
    else:
        token, shown = TOKEN, TOKEN
    header = f" -H {TOKEN_HEADER}:{token}" if token else ""
    # As it was called: after `make run` it is not on the PATH, where iproute2 has another `bridge`.
    found = shutil.which("gumlet-bridge")
    on_path = found is not None and Path(found).samefile(sys.argv[0])
    command = "gumlet-bridge" if on_path else os.path.relpath(sys.argv[0])
    simulate = f"{command} simulate" + (f" --token {token}" if token else "") + " --count 50"
    if not public.endswith(LISTEN):
        simulate += f" --url {url}"
    return Text.assemble(
        ("webhooks  ", "dim"),
        (f"{url}\n", "bold"),
        ("admin     ", "dim"),
        f"{addresses.admin}\n",
        ("kafka     ", "dim"),
        f"{settings.kafka.bootstrap_servers}{' (embedded, in memory)' if embedded else ''}\n",
        ("token     ", "dim"),
        f"{shown}\n\n",
        (f"curl -sS -w '%{{http_code}}\\n'{header} --data-binary @{shlex.quote(str(example))} {url}\n", "green"),
        (f"{simulate}\n\n", "green"),
        ("Events appear below as they reach their topics. Ctrl-C ends.", "dim"),
    )
