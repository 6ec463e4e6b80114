"""What the daemon counts, by Prometheus' conventions: names begin with `bridge_`, values are in base units.

Labels are bounded: topics and reasons are finite, a source is one of those configured or of the first
`MAX_SOURCES` seen. Nothing is labelled by asset; a type that nobody listed is a label
only in what the contract does not know, which is bounded (`bridge/drift.py`).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from importlib.metadata import version

import msgspec
import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from bridge.event import Delivery, Event
from bridge.telemetry.duplicate_counter import DuplicateCounter
from bridge.telemetry.recent_activity import Recent
from bridge.telemetry.tracing import Tracing

MAX_SOURCES = 100
OTHER_SOURCE = "other"
CREATIONS = frozenset({"video.status.created", "live.video.status.created"})
"""Types whose `created_at`, the creation of the asset, is also about when the event itself came to be."""

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PUBLISH_LATENCY_BUCKETS = (*_LATENCY_BUCKETS, 30, 60, 300, 1800, 3600, 21600, 86400)
_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Created(msgspec.Struct):
    created_at: datetime | None = None


_created = msgspec.json.Decoder(_Created).decode


class Histogram(Collector):
    """A histogram that one thread observes. The library's own costs four times as much, at each delivery twice."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that was seen so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterable[Metric]:
        """Return the cumulative counts, as Prometheus wants them."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((str(float(bound)) if bound != float("inf") else "+Inf", total))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class _RequestCollector(Collector):
    """What is counted at each request: plain numbers, since one thread counts and the library's locks would cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counts: Tally[tuple[str, int]] = Tally()
        self.bytes = 0
        self.tokens: dict[str, float] = {}
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the counts."""
        family = CounterMetricFamily(
            "bridge_http_requests", "Requests answered, by source and status.", labels=["source", "status"]
        )
        sources: set[str] = set()
        merged: Tally[tuple[str, int]] = Tally()
        for (source, status), count in self.counts.items():
            if source not in sources and len(sources) < MAX_SOURCES:
                sources.add(source)
            merged[source if source in sources else OTHER_SOURCE, status] += count
        for (source, status), count in merged.items():
            family.add_metric([source, str(int(status))], count)
        yield family
        yield CounterMetricFamily("bridge_http_request_body_bytes", "Bytes of acknowledged bodies.", value=self.bytes)
        used = GaugeMetricFamily(
            "bridge_token_last_used_timestamp_seconds",
            "When a delivery last carried this token, by the token's name.",
            labels=["name"],
        )
        for name, instant in self.tokens.items():
            used.add_metric([name], instant)
        yield used


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        build = Gauge("bridge_build_info", "Always 1; the version is the label.", ["version"], registry=registry)
        build.labels(version("gumlet-kafka-bridge")).set(1)

        self._answers = _RequestCollector(registry)
        self.refusals = Counter(
            "bridge_http_requests_rejected",
            "Requests refused, by status and reason.",
            ["status", "reason"],
            registry=registry,
        )
        self.acknowledge_seconds = Histogram(
            "bridge_ack_latency_seconds",
            "From a delivery's headers to its 200.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "bridge_journal_commit_seconds",
            "Time of a group commit with its sync.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.commit_deliveries = Histogram(
            "bridge_journal_commit_deliveries",
            "Deliveries in a group commit.",
            buckets=_BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self.journal_damaged = Counter(
            "bridge_journal_corruptions",
            "Journal files set aside because they were damaged.",
            registry=registry,
        )
        self.journal_missing = Counter(
            "bridge_journal_lost_deliveries",
            "Acknowledged deliveries that the journal no longer held when it was opened.",
            registry=registry,
        )
        self.records = Counter(
            "bridge_kafka_records_published", "Records that Kafka confirmed, by topic.", ["topic"], registry=registry
        )
        self.publish_seconds = Histogram(
            "bridge_publish_latency_seconds",
            "From a delivery's receipt to Kafka's confirmation of its record.",
            buckets=_PUBLISH_LATENCY_BUCKETS,
            registry=registry,
        )
        self.creation_seconds = Histogram(
            "bridge_creation_to_kafka_seconds",
            "From an asset's creation by Gumlet's clock (`created_at`) to Kafka's confirmation by ours, of the events "
            "that tell of a creation: in others it says how old the asset is.",
            buckets=_PUBLISH_LATENCY_BUCKETS,
            registry=registry,
        )
        self.repeats = Counter(
            "bridge_duplicate_records",
            "Records that Kafka confirmed whose id this process had published before, as far as it remembers: half of "
            "the ids for the 90,000 events after them.",
            registry=registry,
        )
        self._ids = DuplicateCounter()
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
            "bridge_kafka_producer_restarts", "Producers given up for a new one.", registry=registry
        )
        self.parked = Gauge(
            "bridge_parked_deliveries",
            "Deliveries whose topic refuses them, by topic.",
            ["topic"],
            registry=registry,
        )
        self.recent = Recent()
        self.tracing: Tracing | None = None

    def acknowledged(self, source: str, size: int, seconds: float) -> None:
        """Count a 200 to a body of `size` bytes, given after `seconds`."""
        answers = self._answers
        answers.counts[source, 200] += 1
        answers.bytes += size
        self.acknowledge_seconds.observe(seconds)

    def committed(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Count a group commit of the journal that took so long."""
        self.commit_seconds.observe(seconds)
        self.commit_deliveries.observe(len(deliveries))
        self.recent.committed(deliveries[0].received_ms, deliveries[-1].received_ms, time.time() * 1000)

    def published(self, events: Sequence[Event], now_ms: float) -> None:
        """Count what Kafka has just confirmed: what comes again, and how late assets that are new are told."""
        if repeats := self._ids.among([event.id for event in events]):
            self.repeats.inc(repeats)
        for event in events:
            if event.event_type in CREATIONS and (created := _created(event.value).created_at) is not None:
                self.creation_seconds.observe(max(0.0, now_ms / 1000 - created.timestamp()))

    def refused(self, source: str, status: int, reason: str) -> None:
        """Count a request that was refused."""
        self._answers.counts[source, status] += 1
        self.refusals.labels(str(status), reason).inc()
        self.recent.refused(status, reason, source)

    def dead_lettered(self, events: Iterable[Event]) -> None:
        """Count events of the dead-letter topic by the reason that they carry."""
        for event in events:
            record = orjson.loads(event.value)
            self.dead_letters.labels(record["reason"]).inc()
            self.recent.dead_letter(event, record["reason"], record["detail"])

    def token_used(self, name: str, now: float) -> None:
        """Note that a token was used."""
        self._answers.tokens[name] = now

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Expose a value that is asked for when the metrics are."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def register_drift(self, counts: Callable[[], Iterable[tuple[tuple[str, str, str], int]]]) -> None:
        """Expose how often the contract did not know something, by kind, event type and path: bounded by its source."""
        self.registry.register(_DriftCollector(counts))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _DriftCollector(Collector):
    """Reads the counts when the metrics are asked for: normalizing pays nothing for them."""

    def __init__(self, counts: Callable[[], Iterable[tuple[tuple[str, str, str], int]]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield one sample for each sighting."""
        family = CounterMetricFamily(
            "bridge_schema_drift",
            "What deliveries had that the contract does not know.",
            labels=["kind", "event_type", "path"],
        )
        for labels, count in self._counts():
            family.add_metric(labels, count)
        yield family
