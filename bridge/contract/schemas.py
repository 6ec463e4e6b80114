"""The contract: loads the topics and their JSON Schemas from `schemas/`, one file for each topic.

A file defines its topic completely: the event type, the record's schema and examples, the property that is the Kafka
key, the partitions and the topic's configuration (its `x-topic` block). Invariants:

- `Contract.load` returns a complete contract, or raises a `ContractError` that names the file.
- Every reference (`common.json#/$defs/…`) is read from that directory. Nothing is ever fetched.
- `Topic.first_violation` is pure. `format` is asserted: `date-time` means a time that `to_timestamp` returns, so every
  time that the validator accepts can be decoded by every later step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema_rs
import orjson

from bridge.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMON = "common.json"
"""The file of shared definitions: it describes no topic."""
DEAD_LETTER = "dead-letter"
"""The event type of deliveries that cannot be published as records of their type."""
UNRECOGNIZED = "unrecognized"
"""The event type of JSON objects whose type has no topic of its own."""

_MASK = "the value"
"""Replaces the offending value in a violation's detail: details are logged, bodies never are."""
_TIME = {
    "pattern": "^([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-[0-9]{2}-[0-9]{2}"
    "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9][.][0-9]{3}Z$"
}
"""Added to the format `date-time`: RFC 3339 also has leap seconds, the year 0 and other notations."""
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""A topic name that Kafka accepts."""


class Violation(NamedTuple):
    """Where a record violates its schema: `pointer` (RFC 6901, into the record) and what was expected there."""

    pointer: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """One Kafka topic and the schema of its records.

    `event_type` is the file's name without `.json`, `name` the topic's whole name in Kafka (from version 2 on
    it ends in the version: a new version is a new topic), `version` the schema's version, `dataschema` the URN of the
    two, `key` the record's property that is the Kafka key (None: the key is not a single property; the property may
    be optional), `partitions` the number it is created with (None: as configured), `config` its Kafka configuration,
    `schema` the parsed file, `path` the file.
    """

    event_type: str
    name: str
    version: int
    dataschema: str
    key: str | None
    partitions: int | None
    config: Mapping[str, str]
    schema: dict[str, Any]
    path: Path
    _validator: jsonschema_rs.Validator = field(repr=False)

    def first_violation(self, record: dict[str, Any]) -> Violation | None:
        """Return the first place where `record` violates the schema, or None. Stops there, so the cost is bounded."""
        try:
            self._validator.validate(record)
        except jsonschema_rs.ValidationError as error:
            return Violation(_pointer(error), error.message)
        return None


@dataclass(frozen=True, slots=True)
class Contract:
    """Every topic that the bridge can publish to, by event type."""

    topics: Mapping[str, Topic]

    @property
    def dead_letter(self) -> Topic:
        """The topic of deliveries that cannot be published as records of their type."""
        return self.topics[DEAD_LETTER]

    @property
    def unrecognized(self) -> Topic:
        """The topic of events whose type has no file."""
        return self.topics[UNRECOGNIZED]

    @classmethod
    def load(cls, prefix: str = "gumlet.", directory: Path | None = None) -> Contract:
        """Read the files of `directory` (None: those of the bridge itself).

        Each topic's name in Kafka begins with `prefix`. Raises `ContractError`, which names the file and the error.
        """
        directory = directory or schemas_directory()
        files = {path.name: _read(path) for path in sorted(directory.glob("*.json"))}
        for event_type in (DEAD_LETTER, UNRECOGNIZED):
            if f"{event_type}.json" not in files:
                raise ContractError(f"{directory / event_type}.json is missing")
        topics = [_topic(directory / name, schema, files, prefix) for name, schema in files.items() if name != COMMON]
        _check_unique_names(topics)
        return cls(MappingProxyType({topic.event_type: topic for topic in topics}))


def schemas_directory() -> Path:
    """Return the directory of the contract: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ContractError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ContractError(f"{path} is not a JSON object")
    return document


def _topic(path: Path, schema: dict[str, Any], files: dict[str, dict[str, Any]], prefix: str) -> Topic:
    about = schema.get("x-topic")
    if not isinstance(about, dict):
        raise ContractError(f"{path} has no x-topic block")
    event_type = _require(path, about, "event_type", str)
    version = _require(path, about, "version", int)
    if version < 1:
        raise ContractError(f"{path}: x-topic.version is {version}, but must be 1 or more")
    name = prefix + event_type.replace("_", "-") + (f".v{version}" if version > 1 else "")
    if path.name != f"{event_type}.json":
        raise ContractError(f"{path}: x-topic.event_type is {event_type!r}, which the file's name must be too")
    if not _TOPIC_NAME.fullmatch(name):
        raise ContractError(f"{path}: {name!r} cannot be the name of a Kafka topic")
    key = _require(path, about, "key", str, None)
    if key is not None and key not in schema.get("properties", {}):
        raise ContractError(f"{path}: x-topic.key is {key!r}, which is not a property of the record")
    partitions = _require(path, about, "partitions", int, None)
    if partitions is not None and partitions < 1:
        raise ContractError(f"{path}: x-topic.partitions is {partitions}, but must be 1 or more")
    config = _require(path, about, "config", dict)
    if not all(isinstance(value, str) for value in config.values()):
        raise ContractError(f"{path}: every value of x-topic.config must be a string")
    return Topic(
        event_type=event_type,
        name=name,
        version=version,
        dataschema=f"urn:gumlet-kafka-bridge:{event_type}:{version}",
        key=key,
        partitions=partitions,
        config=MappingProxyType(config),
        schema=schema,
        path=path,
        _validator=_compile(path, schema, files),
    )


def _require(path: Path, about: dict[str, Any], name: str, *types: type | None) -> Any:
    """Return `about[name]`, which must be present unless None is among its types."""
    value = about.get(name)
    if value is None and None in types:
        return None
    # A bool is an int to isinstance, but not in the contract.
    if isinstance(value, bool) or not isinstance(value, tuple(t for t in types if t)):
        expected = " or ".join(t.__name__ if t else "null" for t in types)
        raise ContractError(f"{path}: x-topic.{name} must be {expected}")
    return value


def _compile(path: Path, schema: dict[str, Any], files: dict[str, dict[str, Any]]) -> jsonschema_rs.Validator:
    unresolved: list[str] = []

    def retrieve(uri: str) -> Any:
        # The library puts its own scheme before a relative reference. Anything else does not exist: the contract
        # never uses the network.
        name = uri.removeprefix("json-schema:///")
        if name not in files:
            unresolved.append(name)
            raise LookupError(name)
        return _restrict_times(files[name])

    try:
        return jsonschema_rs.Draft202012Validator(
            {"$id": path.name} | _restrict_times(schema), retriever=retrieve, mask=_MASK, validate_formats=True
        )
    except (ValueError, LookupError, jsonschema_rs.ReferencingError) as error:
        if unresolved:  # the library's message does not always name it
            raise ContractError(f"{path} refers to {unresolved[0]}, which is not in {path.parent}") from error
        pointer = _pointer(error) if isinstance(error, jsonschema_rs.ValidationError) else ""
        raise ContractError(f"{path} is not a valid schema: {pointer} {getattr(error, 'message', error)}") from error


def _restrict_times(node: Any) -> Any:
    """Return a schema in which the format `date-time` means a time that `to_timestamp` returns."""
    if isinstance(node, list):
        return [_restrict_times(item) for item in node]
    if not isinstance(node, dict):
        return node
    restricted = {name: _restrict_times(value) for name, value in node.items()}
    return restricted | {"allOf": [*node.get("allOf", ()), _TIME]} if node.get("format") == "date-time" else restricted


def _check_unique_names(topics: list[Topic]) -> None:
    taken: dict[str, Topic] = {}
    for topic in topics:
        other = taken.setdefault(topic.name, topic)
        if other is not topic:
            raise ContractError(f"{topic.path} and {other.path} name the same topic, {topic.name}")


def _pointer(error: jsonschema_rs.ValidationError) -> str:
    # The error of a missing property points to its object: its name is appended.
    missing = [error.kind.property] if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required) else []
    parts = [*error.instance_path, *missing]
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
