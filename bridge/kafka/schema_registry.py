"""A schema registry's HTTP API, as much of it as Confluent's, Karapace and Apicurio (`/apis/ccompat/v7`) share.

Promises: one subject a topic, `<topic>-value` (TopicNameStrategy). A schema is sent whole, without references, because
Karapace takes none for JSON Schema, and as draft 7, because Karapace knows no later one and Apicurio cannot compare
later ones; a contract's file means the same in both. What is sent depends on nothing but the contract, and on no key's
order in a file, so that looking it up finds what was registered. Every failure is a `RegistryError` in plain words.
Secrets are in no message, and go to no other address than the configured one.

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
from bridge.errors import ConfigError, RegistryError
from bridge.event import canonical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bridge.config.sections import RegistrySettings
    from bridge.contract.references import Files
    from bridge.contract.schemas import Topic

TIMEOUT_S = 10.0
LONGEST_QUOTE = 400
"""Characters of the registry's own words that a message repeats."""
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
NOT_REGISTERED = {40401, 40402, 40403}
"""Error codes: no such subject, version, schema."""
DRAFT = "http://json-schema.org/draft-07/schema#"
INTERNAL_KEYWORDS = ("$id", "x-topic")
"""What a registered schema has not: the subject is its identity, and a topic's configuration may change without it."""

_ADVICE = {
    401: "does not accept the credentials. Fix: BRIDGE_REGISTRY_USERNAME and _PASSWORD, or BRIDGE_REGISTRY_TOKEN.",
    403: "forbids it. Fix: let this user read and write the subject, or take another user's credentials.",
    404: "has nothing there. Fix: BRIDGE_REGISTRY_URL is the base of the API; Apicurio's ends in /apis/ccompat/v7.",
    409: "finds the schema incompatible with the version that it has. Fix: undo the change, or raise x-topic.version, "
    "which makes a new topic and subject beside the old.",
    422: "does not take the schema. Fix: see what it says; it must allow schemaType JSON, and writing.",
    429: "has had too many requests. Fix: try again later.",
}


class Registered(NamedTuple):
    """A schema as the registry has it. `guid` is None where the registry gives none."""

    id: int
    version: int
    guid: str | None


def subject_name(topic: Topic) -> str:
    """Return the subject of a topic's values."""
    return f"{topic.name}-value"


def schema_text(topic: Topic) -> str:
    """Return a topic's schema as it is registered: whole, its definitions in `$defs`."""
    whole = bundle(topic.schema, _files(topic.path.parent))
    shown = {name: value for name, value in whole.items() if name not in INTERNAL_KEYWORDS}
    return canonical(shown | {"$schema": DRAFT}).decode()


@lru_cache(maxsize=1)
def _files(directory: Path) -> Files:
    return read_files(directory)


class Registry:
    """The calls; made by `registry`. Each raises RegistryError."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")

    async def find(self, topic: Topic) -> Registered | None:
        """Return where exactly this schema is registered under the topic's subject, or None."""
        answer = await self._call("POST", f"/subjects/{subject_name(topic)}", schema_text(topic), absent=True)
        if answer is None:
            return None
        try:
            return Registered(int(answer["id"]), int(answer["version"]), answer.get("guid"))
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_registry() from error

    async def register(self, topic: Topic) -> Registered:
        """Register the topic's schema; where it is registered already, nothing changes."""
        await self._call("POST", f"/subjects/{subject_name(topic)}/versions", schema_text(topic))
        # The answer has the id, and the version only in some registries.
        found = await self.find(topic)
        if found is None:
            raise RegistryError(
                f"{self.url} took {subject_name(topic)} and does not find it. Fix: `gumlet-bridge schemas status`, later."
            )
        return found

    async def latest_version(self, topic: Topic) -> int | None:
        """Return the newest version under the topic's subject, None where there is none."""
        versions = await self._call("GET", f"/subjects/{subject_name(topic)}/versions", absent=True)
        if versions is None:
            return None
        try:
            return max(map(int, versions), default=None)
        except (TypeError, ValueError) as error:
            raise self._no_registry() from error

    async def objections(self, topic: Topic) -> list[str] | None:
        """Return what makes the schema incompatible with the newest one of its subject, None if nothing does."""
        path = f"/compatibility/subjects/{subject_name(topic)}/versions/latest?verbose=true"
        answer = await self._call("POST", path, schema_text(topic))
        if not isinstance(answer, dict) or not isinstance(answer.get("is_compatible"), bool):
            raise self._no_registry()
        if answer["is_compatible"]:
            return None
        return [str(each)[:LONGEST_QUOTE] for each in answer.get("messages") or ()]

    async def _call(self, method: str, path: str, schema: str | None = None, *, absent: bool = False) -> Any:
        """Send one request and return its JSON; with `absent`, None where the registry has no such thing."""
        body = None if schema is None else orjson.dumps({"schema": schema, "schemaType": "JSON"})
        try:
            async with self._session.request(method, self.url + path, data=body, allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise RegistryError(
                f"{self.url}: TLS fails: {error}. Fix: BRIDGE_REGISTRY_SSL_CAFILE, the authority that signed its "
                "certificate, and the host in BRIDGE_REGISTRY_URL, which the certificate must be for."
            ) from error
        except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError
            raise RegistryError(
                f"{self.url} does not answer: {error or type(error).__name__}. Fix: see that the registry runs, then "
                "BRIDGE_REGISTRY_URL and the network."
            ) from error
        if response.status == HTTPStatus.OK:
            try:
                return orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise self._no_registry() from error
        code, said = _error(content)
        if absent and response.status == HTTPStatus.NOT_FOUND and code in NOT_REGISTERED:
            return None
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            advice = "fails. Fix: see that the registry is well, and try again later."
        else:
            advice = _ADVICE.get(
                response.status, "gives an answer that is none of its API's. Fix: BRIDGE_REGISTRY_URL."
            )
        quote = f" It says: {said}" if said else ""
        raise RegistryError(
            f"{method} {self.url}{path.partition('?')[0]}: {response.status}: the registry {advice}{quote}",
            response.status,
            said,
        )

    def _no_registry(self) -> RegistryError:
        return RegistryError(f"{self.url} answers as no schema registry does. Fix: BRIDGE_REGISTRY_URL.")


@asynccontextmanager
async def registry(settings: RegistrySettings, tls: ssl.SSLContext | None = None) -> AsyncIterator[Registry]:
    """Open the registry for the length of the block, checking its certificate with `tls`. Raises ConfigError."""
    if settings.url is None:
        raise ConfigError(
            "This needs a schema registry. Fix: BRIDGE_REGISTRY_URL, or url under [registry] in the file that --config "
            "names."
        )
    headers = {
        "Accept": f"{CONTENT_TYPE}, application/json; q=0.5",
        "Content-Type": CONTENT_TYPE,
        # Confluent Cloud tells a schema's GUID only to who says this.
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
        # aiohttp closes a TLS connection in the loop's next turn.
        await asyncio.sleep(0)


def tls_context(settings: RegistrySettings) -> ssl.SSLContext:
    """Return what the registry's certificate is checked with. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"BRIDGE_REGISTRY_SSL_CAFILE: {settings.ssl_cafile} cannot be used: {error}. "
            "Fix: a PEM file of the authorities that signed the registry's certificate."
        ) from error


def _error(content: bytes) -> tuple[int, str]:
    """Read an error: its code and its words; 0 and the beginning of it where it is none of the API's."""
    try:
        found = orjson.loads(content)
        code, said = int(found["error_code"]), str(found["message"])
    except (ValueError, KeyError, TypeError):
        return 0, ""
    return code, "".join(each if each.isprintable() else " " for each in said)[:LONGEST_QUOTE]
