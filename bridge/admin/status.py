"""The daemon's status: what /status returns, the checks of the health model, the gauges of queue and components.

Input: queue, metrics, tokens, drift, publisher state. `sample` runs each second, so that rates, history and the start
of a condition do not depend on how often they are asked for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import structlog

from bridge.admin.capacity import Forecast
from bridge.admin.history import History
from bridge.config.settings import Settings
from bridge.errors import DeliveryRejected
from bridge.queue.interface import DeliveryQueue
from bridge.telemetry import token_status
from bridge.telemetry.collectors import Reading
from bridge.telemetry.health import Finding, Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.reasons import NEXT_STEPS, UNTIL_CAPACITY
from bridge.telemetry.token_status import TokenStatus, expiry_warning
from bridge.telemetry.units import format_span, join_names

SAMPLE_SECONDS = 1.0
PARKED_SAMPLES = 10
"""The oldest parked delivery of each topic is looked up once in so many samples: it is read from disk."""
STALLED_SECONDS = 60
"""A delivery that has been pending for longer is reported."""
FULL_WARNING_SECONDS = 4 * 3600
RECENT_MINUTES = 5
"""Rejections of the last minutes that degrade the ingress."""

KAFKA_UNREACHABLE = DeliveryRejected("kafka_unreachable", "Kafka does not answer")

_log = structlog.stdlib.get_logger()


class StatusInputs(NamedTuple):
    """What the daemon hands to the admin port: functions that return the current state of other parts."""

    connected: Callable[[], bool]
    """Whether the producer is connected to Kafka."""
    drift: Callable[[], list[dict[str, Any]]]
    """Schema drift since the start."""
    tokens: Callable[[], list[TokenStatus]] | None
    """The tokens without their secrets; None when authentication is disabled."""
    tokens_fault: Callable[[], str] = str
    """Why the tokens file cannot be read again; empty when it can."""


class Status:
    """Computes the daemon's status from its parts."""

    def __init__(
        self, settings: Settings, queue: DeliveryQueue, metrics: Metrics, health: Health, inputs: StatusInputs
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._health = health
        self._inputs = inputs
        self._started = time.time()
        self._oldest_parked_ms: int | None = None
        self._forecast = Forecast(settings.journal)
        self.history = History()
        for component, check in (
            ("journal" if settings.ack == "journal" else "queue", self._check_queue),
            ("ingress", self._check_ingress),
            ("tokens", self._check_tokens),
            ("publisher", self._check_publisher),
            ("schema drift", self._check_drift),
        ):
            health.add_check(component, check)
        if not inputs.connected():
            health.report("kafka", "degraded", "the first connection is being made", "wait; then check the log")
        self._register_gauges()

    def _register_gauges(self) -> None:
        gauge, queue, forecast, journal = (
            self._metrics.register_gauge,
            self._queue,
            self._forecast,
            self._settings.journal,
        )
        gauge(
            "bridge_journal_depth", "Deliveries that are not yet on Kafka, parked ones included.", lambda: queue.depth
        )
        gauge(
            "bridge_journal_pending_bytes",
            "Bytes of the deliveries that are not yet on Kafka.",
            lambda: queue.size_bytes,
        )
        gauge(
            "bridge_journal_oldest_pending_age_seconds",
            "Age of the oldest delivery that is not yet on Kafka, parked ones included; 0 without one.",
            self.oldest_pending_seconds,
        )
        if self._settings.ack == "journal":
            gauge(
                "bridge_journal_capacity_bytes",
                "Most bytes of deliveries that the journal stores (journal.max_bytes).",
                lambda: journal.max_bytes,
            )
            gauge("bridge_journal_free_bytes", "Bytes free on the journal's disk.", forecast.free_bytes)
            gauge(
                "bridge_journal_time_to_full_seconds",
                "Time until the journal is full at the growth of the last minute; +Inf while it does not grow.",
                forecast.time_to_full_seconds,
            )
        gauge(
            "bridge_ready",
            "Whether a delivery would be accepted now (1) or rejected with 503 (0).",
            lambda: self.not_ready_reason() is None,
        )
        self._metrics.register_gauges(
            Reading(
                "bridge_parked_deliveries", "Deliveries parked on disk because their topic is blocked.", ("topic",)
            ),
            lambda: [((topic,), count) for topic, count in queue.parked.items()],
        )
        self._metrics.register_gauges(
            Reading("bridge_component_state", "Condition of a component: 0 ok, 1 degraded, 2 failing.", ("component",)),
            lambda: [
                ((each.component,), {"ok": 0, "degraded": 1, "failing": 2}[each.state])
                for each in self._health.conditions()
            ],
        )

    async def sample_until_cancelled(self) -> None:
        """Sample each second; an error is logged once and does not end the daemon."""
        number, fault = 0, ""
        while True:
            try:
                await self.sample(with_parked=number % PARKED_SAMPLES == 0)
                fault = ""
            except Exception as error:  # noqa: BLE001 - figures are not worth a delivery
                if fault != (fault := repr(error)):
                    _log.exception("status_sample_failed")
            number += 1
            await asyncio.sleep(SAMPLE_SECONDS)

    async def sample(self, *, with_parked: bool = True) -> None:
        """Add one sample of everything that changes over time, and evaluate the health checks."""
        now = time.monotonic()
        self._forecast.sample(now, self._queue.size_bytes)
        self.history.sample(now, int(time.time() * 1000), self._metrics.totals(), self._queue.depth)
        if with_parked:
            await self._look_up_oldest_parked()
        reported = {condition.component for condition in self._health.conditions()}
        for topic, count in self._queue.parked.items():
            if f"topic {topic}" not in reported:  # parked before the restart; the publisher is not connected yet
                cause = f"{count} deliveries are parked for {topic}, which was blocked before the restart"
                self._health.report(f"topic {topic}", "failing", cause, "gumlet-bridge topics check")

    async def _look_up_oldest_parked(self) -> None:
        oldest = [
            parked[0].delivery.received_ms
            for topic in list(self._queue.parked)
            if (parked := await self._queue.read_parked(topic, 1))
        ]
        self._oldest_parked_ms = min(oldest, default=None)

    def oldest_pending_seconds(self) -> float:
        """Return the age of the oldest delivery that is not on Kafka, parked or not; 0 without one."""
        parked_ms = self._oldest_parked_ms if self._queue.parked else None
        received = [each for each in (self._queue.oldest_pending_ms, parked_ms) if each is not None]
        return max(0.0, time.time() - min(received) / 1000) if received else 0.0

    def not_ready_reason(self) -> DeliveryRejected | None:
        """Return why a delivery would be rejected now, None when it would be accepted."""
        if self._settings.ack == "kafka" and not self._inputs.connected():
            return KAFKA_UNREACHABLE
        return self._queue.check_capacity(self._settings.max_body_bytes)

    def _check_queue(self) -> Finding | None:
        if (rejection := self._queue.check_capacity(self._settings.max_body_bytes)) is not None:
            return _rejecting(rejection)
        seconds = self._forecast.time_to_full_seconds()
        if seconds < FULL_WARNING_SECONDS:
            return Finding("degraded", f"the journal is full in {format_span(seconds)}", NEXT_STEPS["journal_full"])
        corruptions, lost, abandoned = self._metrics.journal_faults()
        counts = (
            (corruptions, "corrupted places since the start"),
            (abandoned, "segments given up after a failed write or a removed file"),
            (lost, "acknowledged deliveries lost"),
        )
        if cause := "; ".join(f"{text}: {count}" for count, text in counts if count):
            step = "`gumlet-bridge journal verify` names the places"
            step = "`gumlet-bridge reconcile` finds and publishes lost events" if lost else step
            return Finding("degraded", cause, f"check the disk; {step}")
        return None

    def _check_ingress(self) -> Finding | None:
        if self._settings.ack == "kafka" and not self._inputs.connected():
            return _rejecting(KAFKA_UNREACHABLE)
        rejection = self.not_ready_reason()
        for reason, count in self.history.rejections(RECENT_MINUTES).items():
            stated = (rejection is not None and reason == rejection.reason) or (
                reason == "invalid_token" and not self._valid_tokens()
            )
            if reason in NEXT_STEPS and not stated:  # else the queue's or the tokens' condition states it
                step = NEXT_STEPS[reason]
                cause = f"requests rejected in the last {RECENT_MINUTES} minutes: {count} {reason}"
                if reason in UNTIL_CAPACITY:
                    cause, step = f"{cause}; deliveries are accepted again", "none: Gumlet repeats the deliveries"
                return Finding("degraded", cause, step)
        return None

    def _valid_tokens(self) -> list[TokenStatus]:
        now = time.time()
        return [token for token in (self._inputs.tokens or list)() if token.is_valid(now)]

    def _check_tokens(self) -> Finding | None:
        if self._inputs.tokens is None:
            return Finding("degraded", "authentication is disabled: anyone can send events", "set BRIDGE_TOKENS_FILE")
        now, valid = time.time(), self._valid_tokens()
        if not valid:
            step = f"{token_status.NEXT_STEP_EXPIRED}; no restart is needed"
            return Finding("failing", token_status.ALL_EXPIRED, step)
        if fault := self._inputs.tokens_fault():
            step = "fix the file; the tokens known so far stay valid until a restart"
            return Finding("degraded", f"the tokens file cannot be read: {fault}", step)
        warnings = filter(None, (expiry_warning(token, now) for token in valid))
        return next((Finding("degraded", cause, token_status.NEXT_STEP_EXPIRING) for cause in warnings), None)

    def _check_publisher(self) -> Finding | None:
        age = self.oldest_pending_seconds()
        if age < STALLED_SECONDS or self.history.observed_seconds() < STALLED_SECONDS:
            return None  # at first it is not known whether anything is published
        pending = f"{self._queue.depth} deliveries are pending, the oldest for {format_span(age)}"
        if self.history.published_within(STALLED_SECONDS):
            step = "wait while the depth shrinks; where it grows, add replicas or partitions"
            return Finding("degraded", pending, step)
        names = ["the blocked topics" if each.startswith("topic ") else each for each in self._health.failing()]
        causes = [each for each in dict.fromkeys(names) if each in ("kafka", "registry", "the blocked topics")]
        step = "read the log; where it names no cause, restart the bridge: no acknowledged delivery is lost"
        if causes:
            step = f"do the next step of {join_names(causes)}; then the deliveries are published"
        return Finding("failing", f"{pending}; nothing was published in the last minute", step)

    def _check_drift(self) -> Finding | None:
        if not (entries := self._inputs.drift()):
            return None
        cause = f"types, fields or values of deliveries that the schemas do not know: {len(entries)}"
        return Finding("degraded", cause, "`gumlet-bridge schemas drift` lists them; nothing is lost")

    def drift(self) -> list[dict[str, Any]]:
        """Return the schema drift since the start."""
        return self._inputs.drift()

    def to_json(self) -> dict[str, Any]:
        """Return the document of /status."""
        rejection = self.not_ready_reason()
        to_full = self._forecast.time_to_full_seconds()
        conditions = self._health.summary()
        corruptions, lost, _ = self._metrics.journal_faults()
        return {
            "version": version("gumlet-kafka-bridge"),
            "uptime_seconds": round(time.time() - self._started, 3),
            "ready": rejection is None,
            "not_ready_reason": None if rejection is None else rejection.reason,
            "ack": self._settings.ack,
            "state": conditions[0].state,
            "health": [condition._asdict() for condition in conditions],
            "kafka": {
                "connected": self._inputs.connected(),
                "bootstrap_servers": self._settings.kafka.bootstrap_servers,
            },
            "registry": {"url": self._settings.registry.url, "wire_format": self._settings.registry.wire_format},
            "journal": {
                "deliveries": self._queue.depth,
                "bytes": self._queue.size_bytes,
                "max_bytes": self._settings.journal.max_bytes,
                "oldest_age_seconds": round(self.oldest_pending_seconds(), 3),
                "parked": self._queue.parked,
                "time_to_full_seconds": None if math.isinf(to_full) else round(to_full),
                "corruptions": corruptions,
                "lost_deliveries": lost,
            },
            "tokens": None
            if self._inputs.tokens is None
            else [token._asdict() | {"valid": token.is_valid(time.time())} for token in self._inputs.tokens()],
            "last_hour": {"rejections": self.history.rejections(), "dead_letters": self.history.dead_letters()},
            "drift": len(self._inputs.drift()),
        }


def _rejecting(rejection: DeliveryRejected) -> Finding:
    return Finding(
        "failing",
        f"deliveries are rejected with 503: {rejection.reason}: {rejection}",
        NEXT_STEPS.get(rejection.reason, "see the log"),
    )
