"""The daemon: wires all the parts. Start order is nesting order; stopping is leaving the blocks.

The journal opens first and closes last; the publisher runs inside it; the ingress is innermost: it stops accepting and
finishes the requests in flight before the publisher drains. A crash of any part stops the others in the same order.

Invariant: a stop ends within twice `shutdown_timeout_seconds` (requests, then drain) and STOP_GRACE_SECONDS.
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
from bridge.admin.status import Sources, Status
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
"""Time for closing producers, journal and exporters after requests and drain had theirs."""
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
    """Run the bridge until `stop` is set, or without it until SIGTERM or SIGINT; then drain and return.

    `ready` is called once deliveries are accepted. Raises BridgeError (in an ExceptionGroup where a task met it)
    for an error that the user must fix.
    """
    health = Health()
    recent = RecentActivity()
    metrics = Metrics(recent)
    tokens = Tokens.from_settings(settings)
    if not tokens.authentication_disabled:
        register_tokens(metrics, tokens.statuses)
    client_options(settings.kafka)  # an unusable certificate ends the start, not the first connection
    contract = Contract.load(settings.topics.prefix)
    metrics.initialize([DEFAULT_SOURCE, *settings.allowed_sources], [topic.name for topic in contract.topics.values()])
    drift = Drift()
    metrics.register_drift(drift.counts.items)
    normalizer = Normalizer(contract, drift)
    topics = TopicProvisioner(settings, contract)
    metrics.register_gauges(
        Reading(
            "bridge_topic_mismatches",
            "Differences between a topic on Kafka and the contract, as of the last check (`topics check` lists them).",
            ("topic",),
        ),
        topics.mismatches,
    )
    encoder = create_encoder(settings.registry, contract, health)
    async with contextlib.AsyncExitStack() as limit, contextlib.AsyncExitStack() as stack:
        if stop is None:
            stop = stack.enter_context(_signals())
        tracing = stack.enter_context(start_tracing())
        backlog = await stack.enter_async_context(_backlog(settings, metrics))
        publisher = Publisher(
            backlog,
            normalizer,
            settings.kafka,
            metrics,
            provision=topics.ensure_topics,
            encoder=encoder,
            # A sender waits for its acknowledgement until Kafka has the record: nothing is collected then.
            linger_seconds=0.0 if settings.ack == "kafka" else settings.kafka.linger_seconds,
            tracing=tracing,
            recent=recent,
            health=health,
        )
        tokens_status = None if tokens.authentication_disabled else tokens.statuses
        sources = Sources(lambda: publisher.connected, drift.report, tokens_status, lambda: tokens.file_fault)
        admin = Admin(settings, Status(settings, backlog, metrics, health, sources), metrics, health, recent)
        ingress = WebhookServer(settings, tokens, backlog, metrics, tracing)
        metrics.register_gauge(
            "bridge_requests_in_flight", "Requests of the public port without a response.", lambda: ingress.in_flight
        )
        async with (
            admin.listening() as admin_url,
            publisher.running(settings.shutdown_timeout_seconds),
            ingress.listening() as public_url,
        ):
            if tokens.authentication_disabled:
                _log.warning("authentication_disabled", hint="anyone who can reach the port can send events")
            _log.info("listening", public=public_url, admin=admin_url, ack=settings.ack)
            if ready is not None:
                ready(Addresses(public_url, admin_url))
            await stop.wait()
            _log.info("stopping", deliveries=backlog.depth)
            # Twice: the requests in progress have their time, then the drain.
            limit.enter_context(_stop_limit(2 * settings.shutdown_timeout_seconds + STOP_GRACE_SECONDS))
    _log.info("stopped")


@contextlib.contextmanager
def _stop_limit(seconds: float) -> Iterator[None]:
    """End the process when the block takes longer than `seconds`, whatever hangs: the journal survives it."""

    def end() -> None:
        _log.error("stop_timed_out", seconds=seconds, hint="what is pending stays in the journal")
        os._exit(EXIT_STOP_TIMED_OUT)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _backlog(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[DeliveryQueue]:
    if settings.ack == "kafka":
        return MemoryQueue.open(settings.queue, settings.ack_timeout_seconds)
    return Journal.open(settings.journal, metrics, settings.queue)


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
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
