"""Log lines quote text from deliveries, and cannot control the terminal that shows them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import orjson
import pytest
import structlog

from bridge.config.sections import LogSettings
from bridge.telemetry.logging import configure

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "\x1b]0;owned\x07\u202e\x9b2J"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what `configure` changes for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_values_of_a_log_line_are_escaped(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both formats escape control and bidirectional characters, in text as in lists."""
    configure(LogSettings(format=log_format))
    structlog.stdlib.get_logger("bridge.test").warning(
        "schema_drift", type=HOSTILE, paths=[HOSTILE], note=f"a {HOSTILE}"
    )
    line = capsys.readouterr().err
    assert "owned" in line
    assert all(char.isprintable() for char in line.rstrip("\n"))
    if log_format == "json":
        assert orjson.loads(line)["type"] == HOSTILE
