"""What the tools that publish share: a sender as the daemon's, sending some events, saying what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.publisher.registry_encoder import RegistryProducer, producer_factory
from bridge.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bridge.config.settings import Settings
    from bridge.contract.schemas import Contract
    from bridge.publisher.producer import OutgoingEvent, Sender

ATTEMPTS = 5
"""How often what Kafka neither confirmed nor refused is sent again."""


async def sender_of(settings: Settings, contract: Contract) -> Sender:
    """Return a sender in the configured wire format. Raises RegistryError: a tool does not wait for a registry."""
    sender = producer_factory(settings.registry, contract)(settings.kafka, Metrics())
    if isinstance(sender, RegistryProducer):
        await sender.frames.learn()
    return sender


async def send_all(sender: Sender, events: list[OutgoingEvent]) -> dict[int, str]:
    """Send until each event is confirmed or refused; return Kafka's words of those that were not sent."""
    refusals: dict[int, str] = {}
    for _ in range(ATTEMPTS):
        if not events:
            return refusals
        verdicts = await sender.send(events)
        refusals |= {id(each): said for each, _, said in verdicts.rejected}
        refusals |= {id(each): said for parked, said in verdicts.refused.values() for each in parked}
        events = verdicts.again
    return refusals | {id(each): "not confirmed" for each in events}
