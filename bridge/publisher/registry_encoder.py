"""Sending in a wire format other than plain: each record says which schema of the registry it was validated against.

Promises: an event is never sent with another id than that of exactly its topic's schema, and never without; while the
registry is away nothing is sent and nothing lost, the journal keeps it; a topic whose schema is not registered refuses
its events as Kafka would, so that they wait on disk while the other topics flow. An id is asked for once in the
process's life. Events are framed when they are packed: whatever else sees them sees plain JSON, and the plain format
costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer

from bridge.config.sections import RegistrySettings
from bridge.contract.schemas import Contract, Topic
from bridge.errors import RegistryError
from bridge.kafka.client import backoff
from bridge.kafka.schema_registry import Registry, registry, subject_name, tls_context
from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from bridge.publisher.producer import OutgoingEvent, Sender
from bridge.telemetry.health import Health

_log = structlog.stdlib.get_logger()


class SchemaIdResolver:
    """What each topic's records carry of their schema, as far as the registry has told."""

    def __init__(self, settings: RegistrySettings, contract: Contract, health: Health | None = None) -> None:
        self._health = health or Health()
        self._settings = settings
        self._tls = tls_context(settings)  # made once: a file that goes later must not end the daemon
        self._topics = {topic.name: topic for topic in contract.topics.values()}
        self._known: dict[str, tuple[bytes, list[tuple[str, bytes]]]] = {}
        self._asked = False

    async def learn(self) -> None:
        """Ask for the schema of every topic. Raises RegistryError."""
        async with registry(self._settings, self._tls) as there:
            for topic in self._topics.values():
                await self._resolve(there, topic)
        self._asked = True
        if missing := [subject_name(topic) for name, topic in self._topics.items() if name not in self._known]:
            _log.error("schemas_not_registered", subjects=missing, fix="gumlet-bridge schemas register")

    async def resolve_all_with_retry(self) -> None:
        """Do the same, once, waiting without end for a registry that is away; logs that it is, and that it answers."""
        attempt = 0
        while not self._asked:
            try:
                await self.learn()
            except RegistryError as error:
                if attempt == 0:
                    _log.warning("schema_registry_unreachable", detail=str(error), hint="attempts go on, events wait")
                self._health.report("registry", "failing", str(error), "check BRIDGE_REGISTRY_…; the bridge retries")
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            else:
                _log.info("schema_registry_connected", url=self._settings.url, schemas=len(self._known))
                self._health.report("registry", "ok")

    async def refusal(self, name: str) -> str | None:
        """Return why a topic's events cannot be sent now, None if they can; asks again for what is not registered."""
        if name in self._known:
            return None
        topic = self._topics[name]
        try:
            async with registry(self._settings, self._tls) as there:
                await self._resolve(there, topic)
        except RegistryError as error:
            return str(error)
        if name in self._known:
            return None
        return (
            f"{self._settings.url} has no such schema under {subject_name(topic)}. Fix: gumlet-bridge schemas register"
        )

    def framed(self, prepared: OutgoingEvent) -> OutgoingEvent:
        """Return an event with its schema's mark on it; its topic must have no `refusal`."""
        event = prepared.event
        prefix, headers = self._known[event.topic]
        return prepared._replace(event=event._replace(value=prefix + event.value, headers=event.headers + headers))

    async def _resolve(self, there: Registry, topic: Topic) -> None:
        found = await there.find(topic)
        if found is None:
            return
        if self._settings.wire_format == "confluent":
            try:
                self._known[topic.name] = encode_id_prefix(found.id), []
            except OverflowError as error:
                raise RegistryError(
                    f"{there.url} gives {subject_name(topic)} an id that is none: {found.id}."
                ) from error
            return
        try:
            self._known[topic.name] = b"", [encode_guid_header(found.guid or "")]
        except ValueError as error:
            raise RegistryError(
                f"{there.url} tells no GUID of {subject_name(topic)}. Fix: BRIDGE_REGISTRY_WIRE_FORMAT=confluent, or "
                "Confluent's registry 8.0 or later."
            ) from error


class RegistryProducer(Sender):
    """Sends events in a wire format of the registry's."""

    def __init__(self, frames: SchemaIdResolver, *arguments: Any) -> None:
        """`arguments` are those of a `Sender`."""
        super().__init__(*arguments)
        self.frames = frames

    async def connect(self) -> AIOKafkaProducer:
        """Wait for the registry too. Kafka comes first: whether it answers is said of it alone."""
        await super().connect()
        await self.frames.resolve_all_with_retry()
        return await super().connect()

    async def _partitions(
        self, producer: AIOKafkaProducer, events: Sequence[OutgoingEvent], refused: dict[str, str]
    ) -> dict[str, int]:
        found = await super()._partitions(producer, events, refused)
        for topic in list(found):
            if (words := await self.frames.refusal(topic)) is not None:
                refused[topic] = words
                del found[topic]
        return found

    def _pack(
        self, producer: AIOKafkaProducer, events: Sequence[OutgoingEvent], partitions: dict[str, int], placed: Any
    ) -> Any:
        framed = [self.frames.framed(each) if each.event.topic in partitions else each for each in events]
        return super()._pack(producer, framed, partitions, placed)


def producer_factory(
    settings: RegistrySettings, contract: Contract, health: Health | None = None
) -> Callable[..., Sender]:
    """Return what makes senders in the configured wire format; they share what they learn. Raises ConfigError."""
    if settings.wire_format == "plain":
        return Sender
    return partial(RegistryProducer, SchemaIdResolver(settings, contract, health))
