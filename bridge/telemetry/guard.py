"""Decorator for code that measures: an exception in it is logged once and never reaches a delivery."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import structlog

P = ParamSpec("P")

_log = structlog.stdlib.get_logger()


def never_raise(function: Callable[P, None]) -> Callable[P, None]:
    """Return `function`, with exceptions logged instead of raised; each function logs only its first."""
    failed = False

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal failed
        try:
            function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a figure may be lost, a delivery may not
            if not failed:
                failed = True
                _log.exception("measurement_failed", function=function.__qualname__)

    return guarded
