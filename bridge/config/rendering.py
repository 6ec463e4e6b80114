"""Renders the configuration as text: mistakes with their fixes, the example file, the effective settings.

Pure functions: settings models in, text out. Secrets are rendered as asterisks.
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
"""Variables that are not settings: those of the tests, and those that Kubernetes sets for each Service `bridge…`."""

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
    "BRIDGE_ADMIN_ALLOWED_HOSTS": "bridge,*.bridge-pods",
}


def fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield each setting with its path, for example `("journal", "dir")`: top-level settings first, then sections."""
    nested = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        else:
            yield (*path, name), field
    for name, section in nested:
        yield from fields(section, (*path, name))


def env_name(prefix: str, path: tuple[str, ...]) -> str:
    """Return the environment variable of a setting."""
    return prefix + "_".join(path).upper()


def format_errors(
    model: type[BaseModel], prefix: str, mistakes: list[dict[str, Any]], environment: Mapping[str, str]
) -> list[str]:
    """Return one line for each validation error, and for each variable with our prefix that is not a setting."""
    known = {env_name(prefix, path): field for path, field in fields(model)}
    lines = [_format_error(prefix, known, mistake, environment) for mistake in mistakes]
    named = {env_name(prefix, _path(mistake)) for mistake in mistakes}
    lines += [
        f"{name}: no such setting. {_nearest(name, known)}"
        for name in sorted(environment)
        if name.startswith(prefix)
        and name not in known
        and name not in named
        and not _IGNORED_VARIABLES.fullmatch(name)
    ]
    return list(dict.fromkeys(lines))


def _path(mistake: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(part) for part in mistake["loc"] if not isinstance(part, int))


def _format_error(
    prefix: str, known: Mapping[str, FieldInfo], mistake: dict[str, Any], environment: Mapping[str, str]
) -> str:
    path = _path(mistake)
    name = env_name(prefix, path)
    if mistake["type"] == "extra_forbidden":
        return f"{name if name in environment else '.'.join(path)}: no such setting. {_nearest(name, known)}"
    message = re.sub(r"^(Value error, )", "", mistake["msg"])
    field = known.get(name)
    fix = _fix(name, field) if field is not None else "See `gumlet-bridge config example`."
    return f"{name}: {message[:1].lower()}{message[1:]}. {fix}"


def _nearest(name: str, known: Mapping[str, FieldInfo]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Fix: did you mean {near[0]}?" if near else "Fix: remove it; `gumlet-bridge config example` lists all."


def _fix(name: str, field: FieldInfo) -> str:
    value = EXAMPLES.get(name)
    if value is None:
        default = field.get_default(call_default_factory=False)
        value = "…" if default in {None, (), ""} else str(default)
    return f"Fix: for example {name}={value} ({field.description})"


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return json.dumps(str(value))
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # TOML's basic strings, numbers and booleans have the syntax of JSON.
    return json.dumps(value, ensure_ascii=False)


def render_toml(settings: BaseModel) -> str:
    """Return the effective settings as TOML: secrets as asterisks, settings without a value as comments."""
    return _render(type(settings), settings)


def render_example_toml(model: type[BaseModel]) -> str:
    """Return a TOML file with every setting at its default, commented out, each with its description."""
    return _render(model, None)


def _render(model: type[BaseModel], settings: BaseModel | None) -> str:
    example = settings is None
    lines: list[str] = []
    section: tuple[str, ...] = ()
    for path, field in fields(model):
        if path[:-1] != section:
            section = path[:-1]
            lines += ["", f"[{'.'.join(section)}]"]
        value: Any = settings
        for part in path:
            value = getattr(value, part, None)
        if example:
            value = field.get_default(call_default_factory=True)
        if example:
            lines += ["", f"# {field.description}"]
        lines.append(f"# {path[-1]} =" if value is None else f"{'# ' if example else ''}{path[-1]} = {_toml(value)}")
    return "\n".join(lines).strip() + "\n"
