"""Traces: the spans of a delivery, the record's header, and no OpenTelemetry import when tracing is disabled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

from bridge import daemon
from bridge.config import settings as config
from bridge.errors import ConfigError
from bridge.event import Delivery, Event
from bridge.telemetry import tracing
from tests.support.brokers import Broker
from tests.support.daemon import TOKEN
from tests.support.delivery_checker import header, read_all

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_request_and_publication_are_linked(
    embedded_broker: Broker, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's span continues the caller's trace, the record carries it, the publication's span links to it."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("bridge.daemon.start_tracing", lambda: contextlib.nullcontext(tracing.Tracing(provider)))
    settings = config.load(
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        tokens=TOKEN,
        journal={"dir": tmp_path, "min_free_bytes": 0},
        kafka={"bootstrap_servers": embedded_broker.bootstrap_servers},
        topics={"prefix": prefix, "provision": "create"},
    )
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(daemon.run(settings, ready=started.set_result, stop=stop))
    async with asyncio.timeout(60), ClientSession() as session:
        public = (await started).public
        for token in (TOKEN, "wrong"):
            body = b'{"type": "video.status.ready", "asset_id": "a"}'
            headers = {"x-gumlet-token": token, "traceparent": CALLER}
            await session.post(f"{public}/webhooks/gumlet", data=body, headers=headers)
        stop.set()
        await running
    spans = exporter.get_finished_spans()
    accepted, refused = (span for span in spans if span.kind is SpanKind.SERVER)
    (publication,) = (span for span in spans if span.kind is SpanKind.PRODUCER)
    topic = f"{prefix}video.status.ready"
    (record,) = await read_all(embedded_broker.bootstrap_servers, [topic])
    assert accepted.context is not None
    assert accepted.parent is not None
    assert f"{accepted.context.trace_id:032x}" == CALLER.split("-")[1]
    assert f"{accepted.parent.span_id:016x}" == CALLER.split("-")[2]
    own = f"00-{accepted.context.trace_id:032x}-{accepted.context.span_id:016x}-01"
    assert header(record, "traceparent") == own
    assert [link.context.span_id for link in publication.links] == [accepted.context.span_id]
    assert dict(accepted.attributes or {})["http.response.status_code"] == 200
    assert dict(refused.attributes or {})["http.response.status_code"] == 401
    attributes = dict(publication.attributes or {})
    assert publication.name == f"send {topic}"
    assert attributes["messaging.system"] == "kafka"
    assert attributes["messaging.destination.name"] == topic
    assert attributes["messaging.message.id"] == header(record, "ce_id")


def test_opentelemetry_is_not_imported_when_tracing_is_disabled() -> None:
    """A daemon without OTEL_ variables does not pay for tracing."""
    code = "import sys, bridge.daemon, bridge.telemetry.tracing as t\nwith t.start_tracing() as it: assert it is None\n"
    code += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_enable_tracing(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    """Tracing is enabled exactly by OpenTelemetry's own variables."""
    for name in (*tracing.ENABLING_VARIABLES, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.enabled() is expected


def test_an_unknown_exporter_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the exporters that exist."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    with pytest.raises(ConfigError, match="otlp, console or none"), tracing.start_tracing():
        pass


def test_a_collector_that_hangs_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are exported for a bounded time at the end; what is not exported by then is logged and given up."""
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:  # it never accepts
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with tracing.start_tracing() as active:
            assert active is not None
            delivery = Delivery(1, "default", b"{}", CALLER)
            active.record_published([(Event("t", b"k", b"{}", [], 1, "video.status.ready", "id"), delivery)])
        assert [line["event"] for line in logs] == ["spans_not_exported"]
