"""The condition of every component of the daemon: one source for /status, /readyz, the page, `doctor` and metrics.

A component is `ok`, `degraded` (works, but needs attention) or `failing` (does not do its job). What is not ok has a
cause and a next step. Parts report a change when they see it (`report`, `clear`); what can be computed from the
daemon's state is a check (`add_check`), evaluated by `conditions`. `summary` has one condition for all topics that are
blocked for the same cause. Reporting never raises and never blocks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import structlog

from bridge.telemetry.units import join_names

State = Literal["ok", "degraded", "failing"]

MAX_CAUSE_CHARS = 500
"""Longest cause kept: it can quote a broker or a registry."""
_SEVERITY = {"failing": 0, "degraded": 1, "ok": 2}
_RANK = {"kafka": 1, "registry": 2, "publisher": 4}
"""Of the same severity a blocked topic comes first (0), the publisher last: its condition follows from the others."""
_OTHER_RANK = 3

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
        """Evaluate the checks; return all conditions, the worst first, causes before what follows from them.

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

    def failing(self) -> list[str]:
        """Return the components that were last seen failing, without evaluating a check."""
        return [each.component for each in sorted(self._conditions.values(), key=_rank) if each.state == "failing"]

    def summary(self) -> list[Condition]:
        """Return the conditions with one for all topics that have the same cause and next step."""
        groups: dict[tuple[str, ...], list[Condition]] = {}
        for condition in self.conditions():
            topic = _topic_of(condition)
            cause = condition.cause.removeprefix(f"{topic} is blocked: ").replace(topic, "TOPIC") if topic else ""
            key = (condition.state, cause, condition.next_step) if topic else (condition.component,)
            groups.setdefault(key, []).append(condition)
        merged = [group[0] if len(group) == 1 else _merge(key[1], group) for key, group in groups.items()]
        return sorted(merged, key=_rank)

    def problems(self) -> list[Condition]:
        """Return the conditions of `summary` that are not ok, the worst first."""
        return [condition for condition in self.summary() if condition.state != "ok"]


def _topic_of(condition: Condition) -> str:
    kind, _, topic = condition.component.partition(" ")
    return topic if kind == "topic" else ""


def _merge(cause: str, topics: Sequence[Condition]) -> Condition:
    names = join_names(sorted(_topic_of(condition) for condition in topics))
    since = min(condition.since for condition in topics)
    text = f"{len(topics)} topics are blocked: {cause} ({names})"
    return Condition(f"{len(topics)} topics", topics[0].state, since, text, topics[0].next_step)


def _rank(condition: Condition) -> tuple[int, int, float]:
    is_topic = condition.component.startswith("topic ")
    rank = 0 if is_topic else _RANK.get(condition.component, _OTHER_RANK)
    return _SEVERITY[condition.state], rank, condition.since
