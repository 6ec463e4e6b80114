"""Traces by OpenTelemetry, when the standard `OTEL_*` variables ask for them; otherwise nothing is even imported.

A span for the request (server), one for the publication (producer) that is linked to it: the two are apart in time,
by seconds or by an outage, so that one is not the other's child. The record's `traceparent` header is the request's
span, which the conventions for messaging call the creation context: a consumer continues or links from there.
It travels through the journal with the delivery.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from aiohttp import web

from bridge.errors import ConfigError
from bridge.event import Delivery, Event
from bridge.webhook import WEBHOOK_PATH

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENABLING_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""One of these in the environment asks for traces; `OTEL_SDK_DISABLED=true` or the exporter `none` forbids them."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def wanted() -> bool:
    """Tell whether the environment asks for traces."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return any(os.environ.get(name) for name in ENABLING_VARIABLES) and exporter != "none" and not disabled


@contextlib.contextmanager
def configured() -> Iterator[Tracing | None]:
    """Trace while the block runs if the environment asks for it; on leaving, what is recorded is exported.

    Raises ConfigError when traces are asked for and cannot be made.
    """
    if not wanted():
        yield None
        return
    exporter_name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter_name not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {exporter_name!r}. Fix: otlp, console or none.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "traces are asked for (OTEL_…), and OpenTelemetry is not installed. "
            "Fix: pip install 'gumlet-kafka-bridge[tracing]', or unset them."
        ) from error
    service = os.environ.get("OTEL_SERVICE_NAME") or "gumlet-kafka-bridge"
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter() if exporter_name == "otlp" else ConsoleSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracing(provider)
    finally:
        provider.shutdown()


class Tracing:
    """Makes the two kinds of span."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only where traces are asked for
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._tracer = provider.get_tracer("bridge", version("gumlet-kafka-bridge"))
        self._propagator = TraceContextTextMapPropagator()

    def around(self, handle: Handler) -> Handler:
        """Return the handler with a span around each request."""

        async def traced(request: web.BaseRequest) -> web.StreamResponse:
            caller = self._propagator.extract({name.lower(): value for name, value in request.headers.items()})
            attributes = {"http.request.method": request.method, "url.path": request.path, "url.scheme": "http"}
            name, kind = f"{request.method} {WEBHOOK_PATH}", self._trace.SpanKind.SERVER
            with self._tracer.start_as_current_span(name, caller, kind, attributes) as span:
                response = await handle(request)
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= 500:  # noqa: PLR2004 - a server's error, by the conventions for HTTP
                    span.set_status(self._trace.StatusCode.ERROR)
                return response

        return traced

    def traceparent(self) -> str:
        """Return the present span as the header has it; empty when it is not recorded."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", "")

    def published(self, sent: Sequence[tuple[Event, Delivery]]) -> None:
        """Record a span for each confirmed record whose request was traced, linked to it."""
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
                attributes["messaging.kafka.message.key"] = event.key.decode(errors="replace")
            # It begins with the receipt, so that its length is what a consumer waits.
            span = self._tracer.start_span(
                f"send {event.topic}",
                kind=self._trace.SpanKind.PRODUCER,
                attributes=attributes,
                links=[link],
                start_time=min(now, event.received_ms * 1_000_000),
            )
            span.end(now)
