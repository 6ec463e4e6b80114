"""Sources of the settings: the environment and `.env` with their values cleaned, and the TOML file.

Shells, editors and secret stores add characters to a value: a byte order mark, white space (`echo` adds a newline), or
one pair of quotes (`docker run --env-file` keeps them). `clean` removes them; an empty value counts as not set.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

_QUOTES = ('"', "'")


def clean(value: Any) -> Any:
    """Return a value without surrounding characters; of a dictionary the values that are not empty, cleaned."""
    if isinstance(value, dict):
        cleaned = {name: clean(item) for name, item in value.items()}
        return {name: item for name, item in cleaned.items() if item != ""}
    if not isinstance(value, str):
        return value
    value = value.strip("\ufeff \t\r\n")
    if len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1]:
        value = value[1:-1].strip()
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file, with or without a byte order mark. Raises ValueError if it is not valid."""
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))


class CleanedSource(PydanticBaseSettingsSource):
    """A source that returns the cleaned values of another source."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one field from the other source."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return all values."""
        return dict(clean(self._source()))
