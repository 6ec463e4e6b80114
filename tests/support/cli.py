"""The bridge's commands as processes of their own, and creating topics and publishing events for a test."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any

import orjson

from bridge.config.sections import TopicsSettings
from bridge.config.settings import Settings
from bridge.contract.schemas import Contract
from bridge.kafka.provisioning import TopicProvisioner
from bridge.publisher.sending import BatchProducer, OutgoingEvent
from bridge.telemetry.metrics import Metrics
from tests.support.daemon import BRIDGE, environment

if TYPE_CHECKING:
    from bridge.config.sections import KafkaSettings
    from bridge.event import Delivery, Event
    from tests.support.brokers import Broker


class CommandResult:
    """A finished command: exit code, JSON lines on standard output, text on standard error."""

    def __init__(self, process: subprocess.CompletedProcess[bytes]) -> None:
        self.code = process.returncode
        self.out = process.stdout.decode()
        self.err = process.stderr.decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [orjson.loads(line) for line in self.out.splitlines()]


async def bridge(*arguments: str, **settings: object) -> CommandResult:
    """Run `bridge` with arguments in a process of its own; settings are BRIDGE_ variables in lower case."""
    command = [*BRIDGE, *arguments]
    return CommandResult(
        await asyncio.to_thread(
            subprocess.run,
            command,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=120,
        )
    )


async def make_topics(_broker: Broker, kafka: KafkaSettings, prefix: str) -> None:
    """Create the contract's topics."""
    settings = Settings(kafka=kafka, topics=TopicsSettings(prefix=prefix, partitions=2))
    assert not (await TopicProvisioner(settings, Contract.load(prefix)).ensure_topics()).blocked


async def publish(kafka: KafkaSettings, events: list[tuple[Event, Delivery]]) -> None:
    """Publish events as the daemon does."""
    producer = BatchProducer(kafka, Metrics())
    left = [OutgoingEvent(event, delivery, number) for number, (event, delivery) in enumerate(events)]
    try:
        while left:
            report = await producer.send(left)
            assert not report.rejected
            assert not report.blocked
            left = report.unsent
    finally:
        await producer.close()
