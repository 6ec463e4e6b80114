"""Logs by structlog to standard error: one JSON object per line, or text for people. Accepted events are not logged.

Log lines hold text from deliveries (types, names of fields), so text that could control a terminal is escaped.
"""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from typing import Any

import orjson
import structlog

from bridge.config.sections import LogSettings


def printable(value: Any) -> str:
    r"""Return text that cannot control a terminal: control, format and bidirectional characters as `\u001b`.

    The escapes are JSON's, so JSON text stays the same JSON.
    """
    text = "" if value is None else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else json.dumps(char)[1:-1] for char in text
    )


def _escape_values(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def configure(settings: LogSettings) -> None:
    """Configure structlog, and render the libraries' log records with it, theirs from level `warning`."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[structlog.typing.Processor]
    if settings.format == "json":
        final = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(
                serializer=lambda event, **_: printable(orjson.dumps(event, default=str).decode())
            ),
        ]
    else:
        final = [_escape_values, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("bridge").setLevel(level)
    # aiokafka logs each attempt while Kafka is unavailable; the publisher logs the change of state once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL if level > logging.DEBUG else level)
    # Malformed requests are rejections, which the ingress logs.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL if level > logging.DEBUG else level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
