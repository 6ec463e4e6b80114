"""`gumlet-bridge dev`: broker, bridge and a live view of every event in one process, without further installation.

The daemon is the one of `gumlet-bridge serve`. The broker is librdkafka's embedded broker, whose data ends with the
process. A configured Kafka is used only with `--kafka`, so that a trial does not publish to it.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from rich.console import Console
from rich.text import Text

from bridge import daemon
from bridge.cli.output import ConfigFile, event_line, make_app
from bridge.config import settings as config
from bridge.contract.schemas import Contract, schemas_directory
from bridge.devtools.embedded_broker import EmbeddedBroker
from bridge.errors import BridgeError
from bridge.kafka.client import client_options
from bridge.kafka.wire_format import strip_schema_id
from bridge.operations.record_view import record_to_dict
from bridge.telemetry import logging as log
from bridge.webhook import TOKEN_HEADER, WEBHOOK_PATH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bridge.config.settings import Settings
    from bridge.daemon import Addresses

TOKEN = "dev"  # noqa: S105 - for a bridge that listens on the loopback interface only
LISTEN = "127.0.0.1:8080"
"""Default address: a bridge with a well-known token must not be reachable from the network."""
EXAMPLE = Path("examples/video.status.ready/full.in.json")
POLL_MS = 200
TOPICS_SECONDS = 10.0
"""Longest wait for the daemon to create its topics on a Kafka given by `--kafka`."""

app = make_app()


@app.command()
def dev(
    config_file: ConfigFile = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Use this Kafka instead of the embedded broker.", show_default=False),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address for webhooks. Port 0: any free port.", show_default=LISTEN),
    ] = None,
) -> None:
    """Run the bridge with an embedded broker, and print each event as it reaches its topic.

    Broker and journal are temporary and end with Ctrl-C. Send the example that the first lines show, or run
    `gumlet-bridge simulate` in a second terminal. Events are not kept: not for production.

    Examples:
    - `gumlet-bridge dev`

    - `gumlet-bridge dev --listen 127.0.0.1:9000`

    - `gumlet-bridge dev --kafka localhost:9092`
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
    """Return the configured settings, with defaults for a trial where nothing is configured."""
    configured = config.load(config_file)
    overrides: dict[str, Any] = {"kafka": {"bootstrap_servers": bootstrap_servers}}
    if embedded:
        overrides["kafka"]["security_protocol"] = "PLAINTEXT"
        overrides["topics"] = {"provision": "create"}
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
    """Run until SIGINT or SIGTERM; events that the daemon drains at the end are printed too."""
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
    """Yield a consumer of every topic of the contract that starts with the next event."""
    options = client_options(settings.kafka)
    topics = {topic.name for topic in Contract.load(settings.topics.prefix).topics.values()}
    if not embedded:
        topics = await _existing(topics, options)
    # No group: nothing is left on a shared Kafka.
    consumer = AIOKafkaConsumer(*topics, auto_offset_reset="earliest", fetch_max_wait_ms=50, **options)
    try:
        await consumer.start()
        if not embedded:
            await consumer.seek_to_end()
        yield consumer
    finally:
        await consumer.stop()


async def _existing(wanted: set[str], options: dict[str, Any]) -> set[str]:
    """Wait for the daemon to create its topics, and return those that exist.

    A consumer that subscribed to a missing topic first could make Kafka auto-create it.
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
            f"No Kafka at {', '.join(options['bootstrap_servers'])}. "
            "Fix: start it, or omit --kafka to use the embedded broker."
        ) from error
    finally:
        await lister.stop()
    if not there:
        raise BridgeError("The bridge's topics do not exist on Kafka. Fix: BRIDGE_TOPICS_PROVISION=create")
    return there


async def _print(consumer: AIOKafkaConsumer, console: Console) -> None:
    while True:
        batches = await consumer.getmany(timeout_ms=POLL_MS)
        # Topics are fetched together, so an asset's events come in order of time, not topic after topic.
        for record in sorted(chain.from_iterable(batches.values()), key=lambda each: each.timestamp):
            console.print(event_line(record_to_dict(strip_schema_id(record))), soft_wrap=True)


def _first_screen(settings: Settings, addresses: Addresses, *, embedded: bool) -> Text:
    public = addresses.public.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    url = f"{public}{WEBHOOK_PATH}"
    example = schemas_directory() / EXAMPLE
    configured = bool(settings.tokens_file) or [each.get_secret_value() for each in settings.token_list] != [TOKEN]
    if not (settings.token_list or settings.tokens_file):
        token, shown = None, "not required"
    elif configured:
        token, shown = '"$TOKEN"', "as configured: set TOKEN to it for the commands below"
    else:
        token, shown = TOKEN, TOKEN
    header = f" -H {TOKEN_HEADER}:{token}" if token else ""
    # Absolute paths: the commands are pasted into another terminal. After `make run` this one is not on the PATH.
    found = shutil.which("gumlet-bridge")
    on_path = found is not None and Path(found).samefile(sys.argv[0])
    command = "gumlet-bridge" if on_path else shlex.quote(str(Path(sys.argv[0]).absolute()))
    simulate = f"{command} simulate" + (f" --token {token}" if token else "") + " --count 50"
    if not public.endswith(LISTEN):
        simulate += f" --url {url}"
    return Text.assemble(
        ("webhooks  ", "dim"),
        (f"{url}\n", "bold"),
        ("page      ", "dim"),
        f"{addresses.admin} (status and metrics too)\n",
        ("kafka     ", "dim"),
        f"{settings.kafka.bootstrap_servers}{' (embedded, in memory)' if embedded else ''}\n",
        ("token     ", "dim"),
        f"{shown}\n\n",
        (f"curl -sS -w '%{{http_code}}\\n'{header} --data-binary @{shlex.quote(str(example))} {url}\n", "green"),
        (f"{simulate}\n", "green"),
        (f"BRIDGE_KAFKA_BOOTSTRAP_SERVERS={settings.kafka.bootstrap_servers} {command} tail\n\n", "green"),
        ("Events appear below as they reach their topics. Ctrl-C ends.", "dim"),
    )
