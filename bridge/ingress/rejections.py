"""Rejections of the public port: the exception, the metrics, and a log that a flood cannot fill.

Every request or connection that is not served is recorded here once. The log gets the first rejection of a reason at
once, and then one line per reason and second with the count of the rejections since the line before.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog

from bridge.telemetry.metrics import Metrics
from bridge.webhook import DEFAULT_SOURCE

_log = structlog.stdlib.get_logger()


class RequestRejected(Exception):
    """A request is not accepted. `reason` is one word, for the metric, the log and the response."""

    def __init__(self, status: HTTPStatus, reason: str, detail: str = "", *, close: bool = True) -> None:
        super().__init__(detail or reason)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.close = close


class RejectionRecorder:
    """Counts and logs rejections."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._recent: set[str] = set()
        self._pending: dict[str, tuple[int, dict[str, Any]]] = {}

    def record(self, rejection: RequestRejected, remote: str | None, source: str = DEFAULT_SOURCE) -> None:
        """Count one rejection, and log it unless its reason was logged within the last second."""
        status, reason = int(rejection.status), rejection.reason
        self._metrics.record_rejection(source, status, reason)
        fields = {"status": status, "source": source, "detail": rejection.detail, "remote": remote}
        if reason in self._recent:
            self._pending[reason] = self._pending.get(reason, (0, fields))[0] + 1, fields
        else:
            self._recent.add(reason)
            _log.warning("request_rejected", reason=reason, count=1, **fields)

    def flush(self) -> None:
        """Log the rejections that `record` only counted, with the fields of the last one. Called once per second."""
        for reason, (count, fields) in self._pending.items():
            _log.warning("request_rejected", reason=reason, count=count, **fields)
        self._recent = set(self._pending)
        self._pending = {}
