"""What the tools that publish share: sending some events and saying what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.sender import Prepared, Sender

ATTEMPTS = 5
"""How often what Kafka neither confirmed nor refused is sent again."""


async def send_all(sender: Sender, events: list[Prepared]) -> dict[int, str]:
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
