"""OpenTelemetry traces, enabled by the standard `OTEL_*` variables; OpenTelemetry is imported only when enabled.

Each request has a server span; each published record has a producer span that is linked to it. They are not parent and
child, because seconds or an outage can lie between them. The record's `traceparent` header is the request's span (the
"creation context" of the semantic conventions for messaging): a consumer continues it or links to it. It is stored in
the journal with the delivery.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from bridge.errors import ConfigError
from bridge.event import Delivery, Event
from bridge.telemetry.guard import never_raise
from bridge.webhook import WEBHOOK_PATH

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENABLING_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Any of these enables traces, unless OTEL_SDK_DISABLED is `true` or the exporter is `none`."""
FLUSH_SECONDS = 5.0
"""How long a stop waits for recorded spans to be exported: a collector that hangs must not delay it further."""
MAX_KEY_CHARS = 128
"""Longest record key in a span: a sender chooses it."""

_log = structlog.stdlib.get_logger()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def enabled() -> bool:
    """Return whether the environment enables traces."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return any(os.environ.get(name) for name in ENABLING_VARIABLES) and exporter != "none" and not disabled


@contextlib.contextmanager
def start_tracing() -> Iterator[Tracing | None]:
    """Yield the tracing of this process, None when it is not enabled; on leaving, export recorded spans.

    Raises ConfigError when traces are enabled and the exporter is unknown or not installed.
    """
    if not enabled():
        yield None
        return
    exporter_name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter_name not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER: unknown exporter {exporter_name!r}. Fix: otlp, console or none.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "OTEL_… enables traces, but OpenTelemetry is not installed. "
            "Fix: pip install 'gumlet-kafka-bridge[tracing]', or unset these variables."
        ) from error
    service = os.environ.get("OTEL_SERVICE_NAME") or "gumlet-kafka-bridge"
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter() if exporter_name == "otlp" else ConsoleSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracing(provider)
    finally:
        exporting = threading.Thread(target=provider.shutdown, name="export-spans", daemon=True)
        exporting.start()
        exporting.join(FLUSH_SECONDS)
        if exporting.is_alive():
            _log.warning("spans_not_exported", timeout_seconds=FLUSH_SECONDS, hint="check the OpenTelemetry collector")


class Tracing:
    """Creates the spans of requests and of published records."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only when traces are enabled
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._tracer = provider.get_tracer("bridge", version("gumlet-kafka-bridge"))
        self._propagator = TraceContextTextMapPropagator()

    def wrap_handler(self, handle: Handler) -> Handler:
        """Return a handler that opens a span for each request."""

        async def handle_with_span(request: web.BaseRequest) -> web.StreamResponse:
            caller = self._propagator.extract({name.lower(): value for name, value in request.headers.items()})
            attributes = {"http.request.method": request.method, "url.path": request.path, "url.scheme": "http"}
            name, kind = f"{request.method} {WEBHOOK_PATH}", self._trace.SpanKind.SERVER
            with self._tracer.start_as_current_span(name, caller, kind, attributes) as span:
                response = await handle(request)
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= 500:  # noqa: PLR2004 - a server error in the semantic conventions for HTTP
                    span.set_status(self._trace.StatusCode.ERROR)
                return response

        return handle_with_span

    def traceparent(self) -> str:
        """Return the current span as a traceparent header; empty when it is not recorded."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", "")

    @never_raise
    def record_published(self, sent: Sequence[tuple[Event, Delivery]]) -> None:
        """Record a span for each confirmed record whose request was traced, linked to the request's span."""
        now = time.time_ns()
        for event, delivery in sent:
            if not delivery.traceparent:
                continue
            context = self._propagator.extract({"traceparent": delivery.traceparent})
            link = self._trace.Link(self._trace.get_current_span(context).get_span_context())
            attributes: dict[str, str | int] = {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": event.topic,
                "messaging.message.id": event.id,
                "messaging.message.body.size": len(event.value),
            }
            if event.key is not None:
                attributes["messaging.kafka.message.key"] = event.key[:MAX_KEY_CHARS].decode(errors="replace")
            # The span starts at the receipt, so its duration is the latency that a consumer sees.
            span = self._tracer.start_span(
                f"send {event.topic}",
                kind=self._trace.SpanKind.PRODUCER,
                attributes=attributes,
                links=[link],
                start_time=min(now, event.received_ms * 1_000_000),
            )
            span.end(now)
