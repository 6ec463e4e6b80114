"""Reads settings as editors, secret stores and shells write them.

A value from the environment or `.env` loses what is not part of it: a byte order mark, surrounding white space with the
newline that `echo` adds, and one pair of surrounding quotes (`docker run --env-file` keeps them). An empty value is not
set. A TOML file may begin with a byte order mark.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

_QUOTES = ('"', "'")


def clean(value: Any) -> Any:
    """Return a value without what surrounds it; in a dictionary each value, without those that are empty."""
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
    """Return the content of a TOML file. Raises ValueError when it is not UTF-8 or not TOML."""
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))


class CleanedSource(PydanticBaseSettingsSource):
    """Another source, with its values cleaned."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one field, as the other source gives it."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return all values."""
        return dict(clean(self._source()))
