"""Publishes a list of events for operator commands: a producer as the daemon's, and the errors of what was not sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from bridge.errors import BridgeError
from bridge.publisher.registry_encoder import create_encoder
from bridge.publisher.sending import BatchProducer, OutgoingEvent
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bridge.config.settings import Settings
    from bridge.contract.schemas import Contract
    from bridge.event import Delivery, Event

ATTEMPTS = 5
"""How often an event is sent that Kafka neither confirms nor rejects."""


@contextlib.asynccontextmanager
async def open_producer(settings: Settings, contract: Contract) -> AsyncIterator[BatchProducer]:
    """Hold a producer in the configured wire format.

    Raises BridgeError, RegistryError, RegistryIncompatible: a command waits neither for Kafka nor for a registry.
    """
    encoder = create_encoder(settings.registry, contract)
    if encoder is not None:
        await encoder.resolve_all()
    fault = ""

    def on_connection(reason: str | None) -> None:
        nonlocal fault
        if reason is not None and not connected:
            fault = reason
            limit.reschedule(asyncio.get_running_loop().time())

    connected = False
    producer = BatchProducer(settings.kafka, Metrics(), on_connection, encoder=encoder)
    try:
        try:
            async with asyncio.timeout(None) as limit:
                await producer.connect()
        except TimeoutError as error:
            raise BridgeError(f"No connection to Kafka: {fault}") from error
        connected = True
        yield producer
    finally:
        await producer.close()


async def send_all(producer: BatchProducer, events: Sequence[tuple[Event, Delivery]]) -> dict[int, str]:
    """Send events until each is confirmed or rejected; return the errors of those not sent, by position in `events`."""
    errors: dict[int, str] = {}
    left = [OutgoingEvent(event, delivery, number) for number, (event, delivery) in enumerate(events)]
    for _ in range(ATTEMPTS):
        if not left:
            return errors
        report = await producer.send(left)
        errors |= {rejection.outgoing.number: rejection.detail for rejection in report.rejected}
        left = [outgoing for outgoing in report.unsent if outgoing.event.topic not in report.blocked]
        errors |= {
            outgoing.number: report.blocked[outgoing.event.topic]
            for outgoing in report.unsent
            if outgoing.event.topic in report.blocked
        }
    return errors | {outgoing.number: "not confirmed" for outgoing in left}
