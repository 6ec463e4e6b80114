"""The bridge's commands as processes of their own, and creating topics and publishing events for a test."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from bridge.config.sections import TopicsSettings
from bridge.config.settings import Settings
from bridge.contract.schemas import Contract
from bridge.kafka.provisioning import TopicProvisioner
from bridge.publisher.sending import BatchProducer, OutgoingEvent
from bridge.telemetry.metrics import Metrics
from tests.support import fork_server
from tests.support.daemon import environment

if TYPE_CHECKING:
    from bridge.config.sections import KafkaSettings
    from bridge.event import Delivery, Event
    from tests.support.brokers import Broker
SECONDS = 120


class CommandResult:
    """A finished command: exit code, JSON lines on standard output, text on standard error."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.err = err.decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [orjson.loads(line) for line in self.out.splitlines()]


async def bridge(*arguments: str, **settings: object) -> CommandResult:
    """Run `gumlet-bridge` with arguments in a process of its own; settings are BRIDGE_ variables in lower case."""
    return await asyncio.to_thread(_run, arguments, environment(**settings))


def _run(arguments: tuple[str, ...], env: dict[str, str]) -> CommandResult:
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        forked = fork_server.start(arguments, env, out, err)
        try:
            code = forked.wait(SECONDS)
        finally:
            forked.kill()
        return CommandResult(code, out.read_bytes(), err.read_bytes())


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
