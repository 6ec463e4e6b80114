"""Client of a schema registry: the HTTP API that Confluent's, Karapace and Apicurio (`/apis/ccompat/v7`) share.

Input: registry settings, topics of the contract. Output: the ids under which their schemas are registered.
Invariants: one subject for each topic, `<topic>-value` (TopicNameStrategy). A schema is sent bundled, without
references, because Karapace accepts none for JSON Schema, and as draft 7, because Karapace knows no later draft and
Apicurio cannot compare later ones; a contract's file means the same in both. The text depends only on the contract, not
on the order of keys in a file, so that a lookup finds what was registered. Every failure is a RegistryError, or a
RegistryIncompatible when a retry cannot succeed (credentials, rights, an address that is not a registry). Secrets are
in no message and are sent to no other address than the configured one.

Source: Confluent's "Schema Registry API Reference", and its OpenAPI description.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import orjson

from bridge.contract.references import bundle, read_files
from bridge.errors import ConfigError, RegistryError, RegistryIncompatible
from bridge.event import canonical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bridge.config.sections import RegistrySettings
    from bridge.contract.references import Files
    from bridge.contract.schemas import Topic

TIMEOUT_S = 10.0
MAX_QUOTE_CHARS = 400
"""Maximum number of characters of the registry's message that an error repeats."""
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
NOT_REGISTERED = {40401, 40402, 40403}
"""Error codes for an unknown subject, version and schema."""
DRAFT = "http://json-schema.org/draft-07/schema#"
INTERNAL_KEYWORDS = ("$id", "x-topic")
"""Removed from a registered schema: the subject is its identity, and a topic's configuration may change alone."""

_ADVICE = {
    401: "rejects the credentials. Fix: BRIDGE_REGISTRY_USERNAME and _PASSWORD, or BRIDGE_REGISTRY_TOKEN.",
    403: "denies access. Fix: allow this user to read and write the subject, or use another user's credentials.",
    404: "has no such API. Fix: BRIDGE_REGISTRY_URL is the base of the API; Apicurio's ends in /apis/ccompat/v7.",
    409: "finds the schema incompatible with its newest version. Fix: undo the change, or raise x-topic.version, "
    "which creates a new topic and subject.",
    422: "rejects the schema. Fix: see its message; it must allow schemaType JSON, and writing.",
    429: "limits the rate of requests. Fix: retry later.",
}
_PERMANENT = {401, 403, 404}
"""Statuses that a retry cannot change."""


class Registered(NamedTuple):
    """A registered schema. `guid`: None when the registry does not return it."""

    id: int
    version: int
    guid: str | None


def subject_name(topic: Topic) -> str:
    """Return the subject of a topic's values."""
    return f"{topic.name}-value"


def schema_text(topic: Topic) -> str:
    """Return a topic's schema as it is registered: bundled, its definitions in `$defs`."""
    whole = bundle(topic.schema, _files(topic.path.parent))
    shown = {name: value for name, value in whole.items() if name not in INTERNAL_KEYWORDS}
    return canonical(shown | {"$schema": DRAFT}).decode()


@lru_cache(maxsize=1)
def _files(directory: Path) -> Files:
    return read_files(directory)


class Registry:
    """The API's calls; created by `registry`. Each raises RegistryError or RegistryIncompatible."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")

    async def find(self, topic: Topic) -> Registered | None:
        """Return the registration of exactly this schema under the topic's subject, or None."""
        response = await self._call("POST", f"/subjects/{subject_name(topic)}", schema_text(topic), absent=True)
        if response is None:
            return None
        try:
            return Registered(int(response["id"]), int(response["version"]), response.get("guid"))
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_a_registry() from error

    async def register(self, topic: Topic) -> Registered:
        """Register the topic's schema; one that is registered already does not change."""
        await self._call("POST", f"/subjects/{subject_name(topic)}/versions", schema_text(topic))
        # The response has the id, and the version only with some registries.
        found = await self.find(topic)
        if found is None:
            raise RegistryError(
                f"{self.url} registered {subject_name(topic)} but does not find it. "
                "Fix: retry `gumlet-bridge schemas status`."
            )
        return found

    async def latest_version(self, topic: Topic) -> int | None:
        """Return the newest version under the topic's subject, None for an unknown subject."""
        versions = await self._call("GET", f"/subjects/{subject_name(topic)}/versions", absent=True)
        if versions is None:
            return None
        try:
            return max(map(int, versions), default=None)
        except (TypeError, ValueError) as error:
            raise self._not_a_registry() from error

    async def compatibility_errors(self, topic: Topic) -> list[str] | None:
        """Return why the schema is incompatible with the newest one of its subject, None if it is compatible."""
        path = f"/compatibility/subjects/{subject_name(topic)}/versions/latest?verbose=true"
        response = await self._call("POST", path, schema_text(topic))
        if not isinstance(response, dict) or not isinstance(response.get("is_compatible"), bool):
            raise self._not_a_registry()
        if response["is_compatible"]:
            return None
        return [str(message)[:MAX_QUOTE_CHARS] for message in response.get("messages") or ()]

    async def _call(self, method: str, path: str, schema: str | None = None, *, absent: bool = False) -> Any:
        """Send one request and return its JSON; with `absent`, None for an unknown subject, version or schema."""
        body = None if schema is None else orjson.dumps({"schema": schema, "schemaType": "JSON"})
        try:
            async with self._session.request(method, self.url + path, data=body, allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise RegistryError(
                f"{self.url}: the TLS handshake fails: {error}. Fix: BRIDGE_REGISTRY_SSL_CAFILE, the authority that "
                "signed its certificate, which must contain the host of BRIDGE_REGISTRY_URL."
            ) from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            refused = isinstance(getattr(error, "os_error", error), ConnectionRefusedError)
            reason = "the connection was refused" if refused else str(error) or type(error).__name__
            raise RegistryError(
                f"{self.url} does not respond: {reason}. Fix: check that the registry runs, BRIDGE_REGISTRY_URL and "
                "the network."
            ) from error
        if response.status == HTTPStatus.OK:
            try:
                return orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise self._not_a_registry() from error
        code, said = _error(content)
        if absent and response.status == HTTPStatus.NOT_FOUND and code in NOT_REGISTERED:
            return None
        advice = _ADVICE.get(response.status, "returns an unknown status. Fix: BRIDGE_REGISTRY_URL.")
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            advice = "fails. Fix: check the registry's log, and retry later."
        quote = f" Its message: {said}" if said else ""
        message = f"{method} {self.url}{path.partition('?')[0]}: {response.status}: the registry {advice}{quote}"
        if response.status in _PERMANENT:
            raise RegistryIncompatible(message)
        raise RegistryError(message, response.status, said)

    def _not_a_registry(self) -> RegistryIncompatible:
        return RegistryIncompatible(
            f"{self.url} does not respond like a schema registry. Fix: BRIDGE_REGISTRY_URL, the base of the API."
        )


@asynccontextmanager
async def registry(settings: RegistrySettings, tls: ssl.SSLContext | None = None) -> AsyncIterator[Registry]:
    """Connect for the length of the block, verifying the certificate with `tls`. Raises ConfigError."""
    if settings.url is None:
        raise ConfigError(
            "A schema registry is required. Fix: BRIDGE_REGISTRY_URL, or url under [registry] in the file of --config."
        )
    headers = {
        "Accept": f"{CONTENT_TYPE}, application/json; q=0.5",
        "Content-Type": CONTENT_TYPE,
        # Confluent Cloud returns a schema's GUID only with this header.
        "Confluent-Accept-Unknown-Properties": "true",
    }
    if settings.username is not None and settings.password is not None:
        pair = f"{settings.username}:{settings.password.get_secret_value()}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    async with aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=tls or tls_context(settings)),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Registry(session, settings.url)
        # aiohttp closes a TLS connection in the next iteration of the loop.
        await asyncio.sleep(0)


def tls_context(settings: RegistrySettings) -> ssl.SSLContext:
    """Return the context that verifies the registry's certificate. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"BRIDGE_REGISTRY_SSL_CAFILE: {settings.ssl_cafile} cannot be used: {error}. "
            "Fix: a PEM file of the authorities that signed the registry's certificate."
        ) from error


def _error(content: bytes) -> tuple[int, str]:
    """Return code and message of an error response; 0 and an empty text if it is not one of the API."""
    try:
        found = orjson.loads(content)
        code, said = int(found["error_code"]), str(found["message"])
    except (ValueError, KeyError, TypeError):
        return 0, ""
    return code, "".join(character if character.isprintable() else " " for character in said)[:MAX_QUOTE_CHARS]
