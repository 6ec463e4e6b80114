"""Encodes records in a wire format of a schema registry: each names the schema that it was validated against.

Input: events whose value is plain JSON. Output: events with the schema's id before the value, or its GUID in a header.

Invariants: an event is never sent without the id of exactly its topic's schema. While the registry is unreachable
nothing is sent and nothing is lost; a topic whose schema is not registered is blocked as one that Kafka rejects. An id
is requested once in the process's life. A registry that cannot give what the wire format needs ends the start.
"""

from __future__ import annotations

import asyncio

import structlog

from bridge.config.sections import RegistrySettings
from bridge.contract.schemas import Contract, Topic
from bridge.errors import RegistryError, RegistryIncompatible, split_fix
from bridge.event import Event
from bridge.kafka.schema_registry import Registry, registry, subject_name, tls_context
from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from bridge.publisher.backoff import backoff
from bridge.telemetry.health import Health

LOOKUP_SECONDS = 5.0
"""Time limit for asking again for the schema of one topic."""

_log = structlog.stdlib.get_logger()


class RegistryEncoder:
    """Encodes events with the schema ids of a registry."""

    def __init__(self, settings: RegistrySettings, contract: Contract, health: Health | None = None) -> None:
        """Read the certificate. Raises ConfigError when it cannot be used."""
        self._settings = settings
        self._health = health or Health()
        self._tls = tls_context(settings)  # read once: a file that is removed later must not end the daemon
        self._topics = {topic.name: topic for topic in contract.topics.values()}
        self._known: dict[str, tuple[bytes, list[tuple[str, bytes]]]] = {}
        self._resolved = False
        self._failing = False

    @property
    def available(self) -> bool:
        """Whether the registry has responded, or was not asked yet."""
        return not self._failing

    async def resolve_all(self) -> None:
        """Request the schema id of every topic. Raises RegistryError, RegistryIncompatible."""
        async with registry(self._settings, self._tls) as client:
            for topic in self._topics.values():
                await self._resolve(client, topic)
        self._resolved = True
        if missing := [subject_name(topic) for name, topic in self._topics.items() if name not in self._known]:
            _log.error("schemas_not_registered", subjects=missing, fix="gumlet-bridge schemas register")

    async def prepare(self) -> None:
        """Request all schema ids, the first time; retry while the registry is unreachable.

        Raises RegistryIncompatible when its first response shows that it can never give what the wire format needs.
        After an outage such a response is retried: it may be a proxy's, and ending the daemon would reject deliveries.
        """
        attempt, logged = 0, ""
        while not self._resolved:
            try:
                await self.resolve_all()
            except (RegistryError, RegistryIncompatible) as error:
                if attempt == 0 and isinstance(error, RegistryIncompatible):
                    raise
                cause, fix = split_fix(str(error))
                if logged != (logged := cause):
                    _log.warning("schema_registry_unreachable", detail=cause, fix=fix, hint="retrying; events are kept")
                self._failing = True
                self._health.report("registry", "failing", cause, f"{fix}; the bridge retries")
                await asyncio.sleep(backoff(attempt))
                attempt += 1
            else:
                self._failing = False
                _log.info("schema_registry_connected", url=self._settings.url, schemas=len(self._known))
                self._health.report("registry", "ok")

    async def unavailable_reason(self, topic: str) -> str | None:
        """Return why the events of a topic cannot be encoded; a schema that is not registered is requested again."""
        if topic in self._known:
            return None
        subject = subject_name(self._topics[topic])
        try:
            async with asyncio.timeout(LOOKUP_SECONDS), registry(self._settings, self._tls) as client:
                await self._resolve(client, self._topics[topic])
        except (RegistryError, RegistryIncompatible) as error:
            return str(error)
        except TimeoutError:
            return f"{self._settings.url} does not respond. Fix: check the registry and BRIDGE_REGISTRY_URL."
        if topic in self._known:
            return None
        return f"{self._settings.url} has no such schema under {subject}. Fix: gumlet-bridge schemas register"

    def encode(self, event: Event) -> Event:
        """Return an event with its schema's id; its topic must have no `unavailable_reason`."""
        prefix, headers = self._known[event.topic]
        return event._replace(value=prefix + event.value, headers=event.headers + headers)

    async def _resolve(self, client: Registry, topic: Topic) -> None:
        found = await client.find(topic)
        if found is None:
            return
        if self._settings.wire_format == "confluent":
            try:
                self._known[topic.name] = encode_id_prefix(found.id), []
            except OverflowError as error:
                raise RegistryIncompatible(
                    f"{client.url} gives {subject_name(topic)} the invalid schema id {found.id}. "
                    "Fix: BRIDGE_REGISTRY_URL, the base URL of a registry with Confluent's API."
                ) from error
            return
        try:
            self._known[topic.name] = b"", [encode_guid_header(found.guid or "")]
        except ValueError as error:
            raise RegistryIncompatible(
                f"{client.url} gives no GUID for {subject_name(topic)}, which the wire format `header` needs. "
                "Fix: BRIDGE_REGISTRY_WIRE_FORMAT=confluent, or Confluent's registry 8.0 or later."
            ) from error


def create_encoder(
    settings: RegistrySettings, contract: Contract, health: Health | None = None
) -> RegistryEncoder | None:
    """Return the encoder of the configured wire format, None for plain JSON. Raises ConfigError."""
    return None if settings.wire_format == "plain" else RegistryEncoder(settings, contract, health)
