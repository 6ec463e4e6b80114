"""A fake schema registry for tests: a strict implementation of Confluent's documented HTTP API.

It rejects everything that the documentation does not allow: an unknown content type, an unknown field of a request, an
invalid JSON Schema, a reference to a schema that is not registered. Compatibility is BACKWARD, checked at the first
level of a record only. `guids=False` behaves like a registry before Confluent's 8.0, and like Karapace.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import jsonschema_rs
import orjson
from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

TYPE = "application/vnd.schemaregistry.v1+json"
TYPES = {TYPE, "application/vnd.schemaregistry+json", "application/json"}
FIELDS = {"schema", "schemaType", "references", "metadata", "ruleSet", "version", "id"}
SPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


class Problem(Exception):
    """An error response of the API."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def response(self) -> web.Response:
        """Return the response: the first three digits of the code are the status."""
        return answer({"error_code": self.code, "message": self.message}, int(str(self.code)[:3]))


def answer(document: Any, status: int = 200) -> web.Response:
    """Return JSON in the API's content type."""
    return web.Response(body=orjson.dumps(document), status=status, content_type=TYPE)


@dataclass
class StrictRegistry:
    """The registry, with its own port and thread. `problem`, when set, is the response to every request."""

    guids: bool = True
    basic: tuple[str, str] | None = None
    bearer: str | None = None
    tls: ssl.SSLContext | None = None
    problem: Problem | None = None
    subjects: dict[str, list[int]] = field(default_factory=dict)
    schemas: dict[int, tuple[str, tuple[tuple[str, str, int], ...]]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start listening, on the same port as before."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        """Stop listening and keep the registered schemas; idempotent."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/subjects", self._list),
                web.post("/subjects/{subject}", self._look_up),
                web.get("/subjects/{subject}/versions", self._versions),
                web.post("/subjects/{subject}/versions", self._register),
                web.get("/subjects/{subject}/versions/{version}", self._version),
                web.post("/compatibility/subjects/{subject}/versions/{version}", self._test),
                web.put("/config/{subject}", self._configure),
                web.get("/schemas/ids/{id}", self._by_id),
                web.get("/schemas/guids/{guid}", self._by_guid),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        try:
            if self.problem is not None:
                raise self.problem
            self._authenticate(request.headers.get("Authorization", ""))
            _negotiate(request)
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except web.HTTPException as error:
            return Problem(error.status, f"HTTP {error.status} {error.reason}").response()

    def _authenticate(self, given: str) -> None:
        wanted = None
        if self.basic is not None:
            wanted = "Basic " + base64.b64encode(":".join(self.basic).encode()).decode()
        if self.bearer is not None:
            wanted = f"Bearer {self.bearer}"
        if wanted is not None and given != wanted:
            raise Problem(401, "Unauthorized")
        if wanted is None and given:
            raise Problem(400, "unexpected credentials")

    async def _schema(self, request: web.Request) -> tuple[str, tuple[tuple[str, str, int], ...]]:
        """Return the schema of a request with its references; raise Problem if one is invalid."""
        try:
            document = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            raise Problem(400, "the body is not JSON") from None
        if unknown := set(document) - FIELDS:
            raise Problem(422, f"Unrecognized field: {min(unknown)}")
        if document.get("schemaType", "AVRO") != "JSON":
            raise Problem(42201, f"Invalid schema type {document.get('schemaType', 'AVRO')}")
        references = tuple(
            (each["name"], each["subject"], each["version"]) for each in document.get("references") or ()
        )
        try:
            text = orjson.dumps(orjson.loads(document["schema"])).decode()
            self._compiled(text, references)
        except (KeyError, TypeError, ValueError, jsonschema_rs.ReferencingError) as error:
            raise Problem(42201, f"Invalid schema: {error}") from None
        return text, references

    def _compiled(self, text: str, references: tuple[tuple[str, str, int], ...]) -> None:
        known = {name: self.schemas[self._id(subject, str(version))][0] for name, subject, version in references}

        def retrieve(uri: str) -> Any:
            return orjson.loads(known[uri.removeprefix("json-schema:///")])

        jsonschema_rs.validator_for(orjson.loads(text), retriever=retrieve)

    def _id(self, subject: str, version: str) -> int:
        if subject not in self.subjects:
            raise Problem(40401, f"Subject '{subject}' not found.")
        ids = self.subjects[subject]
        if version == "latest":
            return ids[-1]
        if not version.isdigit() or version == "0":
            raise Problem(42202, f"The specified version '{version}' is not a valid version id.")
        if int(version) > len(ids):
            raise Problem(40402, f"Version {version} not found.")
        return ids[int(version) - 1]

    def _describe(self, identity: int, **more: Any) -> web.Response:
        text, references = self.schemas[identity]
        content: dict[str, Any] = {"schemaType": "JSON", "schema": text} | more
        if references:
            content["references"] = [{"name": n, "subject": s, "version": v} for n, s, v in references]
        if self.guids:
            content["guid"] = str(uuid.uuid5(SPACE, text))
        return answer(content)

    async def _list(self, _: web.Request) -> web.Response:
        return answer(sorted(self.subjects))

    async def _look_up(self, request: web.Request) -> web.Response:
        subject = request.match_info["subject"]
        wanted = await self._schema(request)
        self._id(subject, "latest")
        for version, identity in enumerate(self.subjects[subject], 1):
            if self.schemas[identity] == wanted:
                return self._describe(identity, subject=subject, version=version, id=identity)
        raise Problem(40403, "Schema not found")

    async def _versions(self, request: web.Request) -> web.Response:
        subject = request.match_info["subject"]
        self._id(subject, "latest")
        return answer(list(range(1, len(self.subjects[subject]) + 1)))

    async def _version(self, request: web.Request) -> web.Response:
        subject, version = request.match_info["subject"], request.match_info["version"]
        identity = self._id(subject, version)
        number = self.subjects[subject].index(identity) + 1
        return self._describe(identity, subject=subject, version=number, id=identity)

    async def _register(self, request: web.Request) -> web.Response:
        subject = request.match_info["subject"]
        wanted = await self._schema(request)
        identity = next((each for each, schema in self.schemas.items() if schema == wanted), len(self.schemas) + 1)
        there = self.subjects.get(subject, [])
        if identity not in there:
            if there and (objections := objections_to(wanted[0], self.schemas[there[-1]][0])):
                what = "Schema being registered is incompatible with an earlier schema for subject"
                raise Problem(409, f'{what} "{subject}", details: {objections}')
            self.schemas[identity] = wanted
            self.subjects.setdefault(subject, []).append(identity)
        return answer({"id": identity})

    async def _test(self, request: web.Request) -> web.Response:
        wanted = await self._schema(request)
        earlier = self.schemas[self._id(request.match_info["subject"], request.match_info["version"])]
        objections = objections_to(wanted[0], earlier[0])
        content: dict[str, Any] = {"is_compatible": not objections}
        if request.query.get("verbose") == "true":
            content["messages"] = objections
        return answer(content)

    async def _configure(self, request: web.Request) -> web.Response:
        document = orjson.loads(await request.read())
        if document != {"compatibility": "BACKWARD"}:
            raise Problem(42203, "Invalid compatibility level")
        return answer(document)

    async def _by_id(self, request: web.Request) -> web.Response:
        identity = int(request.match_info["id"])
        if identity not in self.schemas:
            raise Problem(40403, f"Schema {identity} not found")
        return self._describe(identity)

    async def _by_guid(self, request: web.Request) -> web.Response:
        for identity, (text, _) in self.schemas.items():
            if self.guids and str(uuid.uuid5(SPACE, text)) == request.match_info["guid"]:
                return self._describe(identity)
        raise Problem(40403, "Schema not found")


def _negotiate(request: web.Request) -> None:
    if request.method in {"POST", "PUT"} and request.content_type not in TYPES:
        raise Problem(415, "HTTP 415 Unsupported Media Type")
    if not any(each in request.headers.get("Accept", "*/*") for each in (*TYPES, "*/*")):
        raise Problem(406, "HTTP 406 Not Acceptable")


def objections_to(new: str, old: str) -> list[str]:
    """Return why records of the old schema may be invalid for the new one, at their first level."""
    after, before = orjson.loads(new), orjson.loads(old)
    removed = before.get("properties", {}).keys() - after.get("properties", {}).keys()
    grown = set(after.get("required", [])) - set(before.get("required", []))
    return [f"PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL /{name}" for name in sorted(removed)] + [
        f"REQUIRED_ATTRIBUTE_ADDED /{name}" for name in sorted(grown)
    ]
