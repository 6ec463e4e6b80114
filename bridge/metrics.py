"""What the daemon counts, by Prometheus' conventions: names begin with `bridge_`, values are in base units.

Labels are bounded: topics and reasons are finite, a source is one of those configured or of the first
`MAX_SOURCES` seen. Nothing is labelled by asset or by a type that nobody listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from bridge.event import Event
from bridge.recent import Recent

MAX_SOURCES = 100
OTHER_SOURCE = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_SECONDS = (*_SECONDS, 30, 60, 300, 1800, 3600, 21600, 86400)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        build = Gauge("bridge_build_info", "Always 1; the version is the label.", ["version"], registry=registry)
        build.labels(version("gumlet-kafka-bridge")).set(1)

        self._deliveries = Counter(
            "bridge_deliveries",
            "Requests answered, by source and status.",
            ["source", "status"],
            registry=registry,
        )
        self.refusals = Counter(
            "bridge_refusals",
            "Requests refused, by status and reason.",
            ["status", "reason"],
            registry=registry,
        )
        self.acknowledge_seconds = Histogram(
            "bridge_acknowledge_seconds",
            "From a delivery's headers to its 200.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.received_bytes = Counter("bridge_received_bytes", "Bytes of acknowledged bodies.", registry=registry)
        self.commit_seconds = Histogram(
            "bridge_journal_commit_seconds",
            "Time of a group commit with its sync.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.commit_deliveries = Histogram(
            "bridge_journal_commit_deliveries",
            "Deliveries in a group commit.",
            buckets=_SIZES,
            registry=registry,
        )
        self.journal_damaged = Counter(
            "bridge_journal_damaged_files",
            "Journal files set aside because they were damaged.",
            registry=registry,
        )
        self.records = Counter(
            "bridge_records", "Records that Kafka confirmed, by topic.", ["topic"], registry=registry
        )
        self.publish_seconds = Histogram(
            "bridge_publish_seconds",
            "From a delivery's receipt to Kafka's confirmation of its record.",
            buckets=_LONG_SECONDS,
            registry=registry,
        )
        self.dead_letters = Counter(
            "bridge_dead_letters",
            "Deliveries sent to the dead-letter topic, by reason.",
            ["reason"],
            registry=registry,
        )
        self.kafka_connected = Gauge(
            "bridge_kafka_connected", "1 while Kafka confirms, 0 while it is waited for.", registry=registry
        )
        self.producer_replacements = Counter(
            "bridge_producer_replacements", "Producers given up for a new one.", registry=registry
        )
        self.parked = Gauge(
            "bridge_parked_deliveries",
            "Deliveries whose topic refuses them, by topic.",
            ["topic"],
            registry=registry,
        )
        self.recent = Recent()
        self._sources: dict[str, str] = {}
        self._known: dict[tuple[str, int], Counter] = {}

    def answered(self, source: str, status: int) -> None:
        """Count an answer to a request for a source."""
        counter = self._known.get((source, status))
        if counter is None:
            label = self._sources.get(source)
            if label is None:
                if len(self._sources) >= MAX_SOURCES:
                    self._deliveries.labels(OTHER_SOURCE, str(status)).inc()
                    return
                label = self._sources[source] = source
            counter = self._known[source, status] = self._deliveries.labels(label, str(status))
        counter.inc()

    def refused(self, source: str, status: int, reason: str) -> None:
        """Count a request that was refused."""
        self.answered(source, status)
        self.refusals.labels(str(int(status)), reason).inc()
        self.recent.refused(int(status), reason, source)

    def dead_lettered(self, events: Iterable[Event]) -> None:
        """Count events of the dead-letter topic by the reason that they carry."""
        for event in events:
            record = orjson.loads(event.value)
            self.dead_letters.labels(record["reason"]).inc()
            self.recent.dead_letter(event, record["reason"], record["detail"])

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Expose a value that is asked for when the metrics are."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
