"""The condition of every component of the daemon: one source for /status, /readyz, the page, `doctor` and metrics.

A component is `ok`, `degraded` (works, but needs attention) or `failing` (does not do its job). What is not ok has a
cause and a next step. Parts report a change when they see it (`report`, `clear`); what can be computed from the
daemon's state is a check (`add_check`), evaluated by `conditions`. Reporting never raises and never blocks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import structlog

State = Literal["ok", "degraded", "failing"]

MAX_CAUSE_CHARS = 500
"""Longest cause kept: it can quote a broker or a registry."""
_SEVERITY = {"failing": 0, "degraded": 1, "ok": 2}

_DIGITS = re.compile(r"\d+")

_log = structlog.stdlib.get_logger()


class Finding(NamedTuple):
    """Result of a check that is not ok."""

    state: State
    cause: str
    next_step: str


class Condition(NamedTuple):
    """The condition of one component; `since` is in seconds since the epoch."""

    component: str
    state: State
    since: float
    cause: str = ""
    next_step: str = ""

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.component}: {self.state}: {self.cause}. Fix: {self.next_step}".replace("..", ".")


Check = Callable[[], Finding | None]


class Health:
    """The conditions of all components that have been reported or have a check."""

    def __init__(self) -> None:
        self._conditions: dict[str, Condition] = {}
        self._checks: dict[str, Check] = {}

    def report(self, component: str, state: State, cause: str = "", next_step: str = "") -> None:
        """Set the condition of a component; `since` changes only with the state."""
        known = self._conditions.get(component)
        since = known.since if known is not None and known.state == state else time.time()
        self._conditions[component] = Condition(component, state, since, cause[:MAX_CAUSE_CHARS], next_step)

    def clear(self, component: str) -> None:
        """Forget a component, for example a topic that is no longer blocked."""
        self._conditions.pop(component, None)

    def add_check(self, component: str, check: Check) -> None:
        """Let `check` decide on the condition of a component each time it is asked for: None is ok."""
        self._checks[component] = check

    def conditions(self) -> list[Condition]:
        """Evaluate the checks; return all conditions, the worst and oldest first.

        A check whose state or cause has changed is logged; a number in the cause may change without a log line.
        """
        for component, check in self._checks.items():
            before = self._conditions.get(component)
            try:
                finding = check()
            except Exception as error:  # noqa: BLE001 - a check that fails must not hide the other components
                finding = Finding("degraded", f"the check failed: {error!r}", "report this as a bug of the bridge")
            state, cause, next_step = finding or Finding("ok", "", "")
            self.report(component, state, cause, next_step)
            if _DIGITS.sub("", state + cause) != _DIGITS.sub("", before.state + before.cause if before else "ok"):
                log = _log.info if state == "ok" else _log.warning
                log("health_changed", component=component, state=state, detail=cause, hint=next_step)
        return sorted(self._conditions.values(), key=_rank)

    def problems(self) -> list[Condition]:
        """Return the conditions that are not ok, the worst and oldest first."""
        return [condition for condition in self.conditions() if condition.state != "ok"]


def _rank(condition: Condition) -> tuple[int, bool, float]:
    """Order by severity; of the same severity a blocked topic comes first, then the oldest condition."""
    return _SEVERITY[condition.state], not condition.component.startswith("topic "), condition.since
