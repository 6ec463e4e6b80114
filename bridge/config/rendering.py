"""What a user is told about mistakes in the configuration: each by its name, what is wrong, how to mend it.

Also the tables that teach the configuration: the example file and what is in force. Pure: models in, text out.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

_IGNORED_VARIABLES = re.compile(
    r"BRIDGE_TEST_.*|BRIDGE_(.*_)?SERVICE_(HOST|PORT.*)|BRIDGE_(.*_)?PORT(_\d+_(TCP|UDP).*)?"
)
"""Set for the tests, and by Kubernetes for every Service whose name begins with `bridge`: not settings."""

EXAMPLES = {
    "BRIDGE_TOKENS": "$(openssl rand -hex 32)",
    "BRIDGE_TOKENS_FILE": "/run/secrets/bridge/tokens",
    "BRIDGE_KAFKA_BOOTSTRAP_SERVERS": "kafka-0:9092,kafka-1:9092",
    "BRIDGE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "BRIDGE_KAFKA_SASL_USERNAME": "bridge",
    "BRIDGE_KAFKA_SASL_OAUTH_TOKEN_FILE": "/run/secrets/bridge/kafka-token",
    "BRIDGE_KAFKA_SSL_CAFILE": "/etc/ssl/kafka-ca.pem",
    "BRIDGE_TOPICS_PARTITIONS": "12",
    "BRIDGE_REGISTRY_URL": "http://schema-registry:8081",
    "BRIDGE_REGISTRY_USERNAME": "bridge",
    "BRIDGE_REGISTRY_SSL_CAFILE": "/etc/ssl/registry-ca.pem",
    "BRIDGE_ALLOWED_SOURCES": "production,staging",
}


def fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield each setting with its path (`("journal", "dir")`), sections after plain settings."""
    nested = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        else:
            yield (*path, name), field
    for name, section in nested:
        yield from fields(section, (*path, name))


def variable(prefix: str, path: tuple[str, ...]) -> str:
    """Return the environment's name of a setting."""
    return prefix + "_".join(path).upper()


def report(
    model: type[BaseModel], prefix: str, mistakes: list[dict[str, Any]], environment: Mapping[str, str]
) -> list[str]:
    """Return a line for each mistake: pydantic's, and names in the environment that mean nothing. Empty: none."""
    known = {variable(prefix, path): field for path, field in fields(model)}
    lines = [_format_error(prefix, known, mistake) for mistake in mistakes]
    told = {variable(prefix, _path(mistake)) for mistake in mistakes}
    lines += [
        f"{name}: no such setting. {_nearest(name, known)}"
        for name in sorted(environment)
        if name.startswith(prefix) and name not in known and name not in told and not _IGNORED_VARIABLES.fullmatch(name)
    ]
    return list(dict.fromkeys(lines))


def _path(mistake: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(part) for part in mistake["loc"] if not isinstance(part, int))


def _format_error(prefix: str, known: Mapping[str, FieldInfo], mistake: dict[str, Any]) -> str:
    path = _path(mistake)
    name = variable(prefix, path)
    if mistake["type"] == "extra_forbidden":
        return f"{'.'.join(path)}: no such setting. {_nearest(name, known)}"
    message = re.sub(r"^(Value error, )", "", mistake["msg"])
    field = known.get(name)
    fix = _fix(name, field) if field is not None else "See `gumlet-bridge config example`."
    return f"{name}: {message[:1].lower()}{message[1:]}. {fix}"


def _nearest(name: str, known: Mapping[str, FieldInfo]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Fix: did you mean {near[0]}?" if near else "Fix: remove it; `gumlet-bridge config example` lists all."


def _fix(name: str, field: FieldInfo) -> str:
    example = EXAMPLES.get(name)
    if example is None:
        default = field.get_default(call_default_factory=False)
        example = "…" if default in {None, (), ""} else str(default)
    return f"Fix: for example {name}={example} ({field.description})"


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return json.dumps(str(value))
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    # A TOML basic string, number and boolean are written as in JSON.
    return json.dumps(value, ensure_ascii=False)


def as_toml(settings: BaseModel) -> str:
    """Write what is in force as a TOML file, secrets as asterisks, what is not set as a comment."""
    return _render(type(settings), settings, teach=False)


def example(model: type[BaseModel]) -> str:
    """Write a TOML file with every setting, commented out at its default, each with what it means."""
    return _render(model, None, teach=True)


def _render(model: type[BaseModel], settings: BaseModel | None, *, teach: bool) -> str:
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for path, field in fields(model):
        if path[:-1] != section:
            section = path[:-1]
            lines += ["", f"[{'.'.join(section)}]"]
        value: Any = settings
        for part in path:
            value = getattr(value, part, None)
        if settings is None:
            value = field.get_default(call_default_factory=True)
        if teach:
            lines += ["", f"# {field.description}"]
        lines.append(f"# {path[-1]} =" if value is None else f"{'# ' if teach else ''}{path[-1]} = {_toml(value)}")
    return "\n".join(lines).strip() + "\n"
