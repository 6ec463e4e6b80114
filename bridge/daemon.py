"""The daemon: creates and connects all the parts. They stop in the reverse order of their start.

The queue opens first and closes last. The ingress starts last: it stops accepting and finishes the requests in flight
before the publisher drains. A crash of any part stops the others in the same order, without the drain.

Invariant: a stop, after a signal or a crash, ends within twice `shutdown_timeout_seconds` (once for the requests in
flight, once for the drain) plus STOP_GRACE_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import structlog

from bridge.admin.server import Admin
from bridge.admin.status import Status, StatusInputs
from bridge.config.settings import Settings
from bridge.contract.drift import Drift
from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.ingress.server import WebhookServer
from bridge.ingress.tokens import Tokens
from bridge.kafka.client import client_options
from bridge.kafka.provisioning import TopicProvisioner
from bridge.publisher.publisher import Publisher
from bridge.publisher.registry_encoder import create_encoder
from bridge.queue.interface import DeliveryQueue
from bridge.queue.journal import Journal
from bridge.queue.memory import MemoryQueue
from bridge.telemetry.collectors import Reading
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.recent_activity import RecentActivity
from bridge.telemetry.token_status import register_tokens
from bridge.telemetry.tracing import start_tracing
from bridge.webhook import DEFAULT_SOURCE

STOP_GRACE_SECONDS = 20.0
"""Time to close the producer, the journal and the trace exporter after the requests and the drain."""
EXIT_STOP_TIMED_OUT = 1

_log = structlog.stdlib.get_logger()


class Addresses(NamedTuple):
    """The URLs of the public and of the admin port."""

    public: str
    admin: str


async def run(
    settings: Settings,
    *,
    ready: Callable[[Addresses], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run the bridge until `stop` is set, by default by SIGTERM or SIGINT; then drain and return.

    `ready` is called once deliveries are accepted. Raises BridgeError, in an ExceptionGroup if a task raised it, for an
    error that the user must fix.
    """
    health = Health()
    recent = RecentActivity()
    metrics = Metrics(recent)
    tokens = Tokens.from_settings(settings)
    tokens_status = None if tokens.authentication_disabled else tokens.statuses
    if tokens_status is not None:
        register_tokens(metrics, tokens_status)
    client_options(settings.kafka)  # an unusable certificate ends the start, not the first connection
    contract = Contract.load(settings.topics.prefix)
    metrics.initialize([DEFAULT_SOURCE, *settings.allowed_sources], [topic.name for topic in contract.topics.values()])
    drift = Drift()
    metrics.register_drift(drift.counts.items)
    normalizer = Normalizer(contract, drift)
    provisioner = TopicProvisioner(settings, contract)
    metrics.register_gauges(
        Reading(
            "bridge_topic_mismatches",
            "Differences between a topic on Kafka and the contract, as of the last check (`topics check` lists them).",
            ("topic",),
        ),
        provisioner.mismatches,
    )
    encoder = create_encoder(settings.registry, contract, health)
    async with contextlib.AsyncExitStack() as stop_timer, contextlib.AsyncExitStack() as parts:
        try:
            stop = stop or parts.enter_context(_stop_signal())
            tracing = parts.enter_context(start_tracing())
            queue = await parts.enter_async_context(_open_queue(settings, metrics))
            publisher = Publisher(
                queue,
                normalizer,
                settings.kafka,
                metrics,
                provision=provisioner.ensure_topics,
                encoder=encoder,
                # With ack = kafka, a sender waits until Kafka has the record: nothing is collected.
                linger_seconds=0.0 if settings.ack == "kafka" else settings.kafka.linger_seconds,
                tracing=tracing,
                recent=recent,
                health=health,
            )
            inputs = StatusInputs(lambda: publisher.connected, drift.report, tokens_status, lambda: tokens.file_fault)
            admin = Admin(settings, Status(settings, queue, metrics, health, inputs), metrics, health, recent)
            ingress = WebhookServer(settings, tokens, queue, metrics, tracing)
            admin_url = await parts.enter_async_context(admin.listening())
            await parts.enter_async_context(publisher.running(settings.shutdown_timeout_seconds))
            public_url = await parts.enter_async_context(ingress.listening())
            if tokens.authentication_disabled:
                _log.warning("authentication_disabled", hint="anyone who can reach the port can send events")
            _log.info("listening", public=public_url, admin=admin_url, ack=settings.ack)
            if ready is not None:
                ready(Addresses(public_url, admin_url))
            await stop.wait()
            _log.info("stopping", deliveries=queue.depth)
        finally:
            stop_timer.enter_context(_stop_limit(2 * settings.shutdown_timeout_seconds + STOP_GRACE_SECONDS))
    _log.info("stopped")


@contextlib.contextmanager
def _stop_limit(seconds: float) -> Iterator[None]:
    """End the process when the block takes longer than `seconds`; acknowledged deliveries stay in the journal."""

    def end() -> None:
        _log.error("stop_timed_out", seconds=seconds, hint="pending deliveries stay in the journal")
        os._exit(EXIT_STOP_TIMED_OUT)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _open_queue(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[DeliveryQueue]:
    if settings.ack == "kafka":
        return MemoryQueue.open(settings.queue, settings.ack_timeout_seconds)
    return Journal.open(settings.journal, metrics, settings.queue)


@contextlib.contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM or SIGINT sets."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
