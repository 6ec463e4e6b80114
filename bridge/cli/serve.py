"""`gumlet-bridge serve`: the daemon."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bridge import daemon
from bridge.config import settings as config
from bridge.telemetry import logging as log

GIL_SWITCH_INTERVAL_SECONDS = 0.0005
"""How long the journal's thread, back from a sync, waits for a busy event loop to let it in. The interpreter's own 5 ms
made the 99th percentile of the answer 33 ms and not 11 (medians of five pairs of runs on a busy machine)."""

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def serve(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file of settings; the environment wins over it."),
    ] = None,
) -> None:
    """Accept Gumlet's webhooks and publish them to Kafka, until SIGTERM or SIGINT.

    200 means that the event is on disk; it goes to Kafka as soon as Kafka takes it. Logs go to standard error.

    Examples:
    `BRIDGE_TOKENS=secret BRIDGE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 gumlet-bridge serve`

    `gumlet-bridge serve --config /etc/gumlet-kafka-bridge.toml`

    All settings: `gumlet-bridge config example`. Exit codes: 0 stopped, 1 failed, 75 another process holds the journal,
    78 wrong configuration.
    """
    settings = config.load(config_file, serving=True)
    log.configure(settings.log)
    # What was imported stays: a full collection that walks through it stops the loop for 18 ms, without it for none.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_SECONDS)
    uvloop.run(daemon.run(settings))
