"""The daemon's Prometheus metrics: names begin with `bridge_`, values are in base units.

Invariants: no label value is chosen without a bound by a sender (sources: `MAX_SOURCES`; topics and reasons: closed
sets; unknown fields: bounded in `bridge/contract/drift.py`); nothing is labelled by asset; known label values are
exposed with 0 from the start; a method that counts never raises on the path of a delivery.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from bridge.event import Delivery, Event
from bridge.telemetry.collectors import Histogram, Labels, Reading, ReadingCollector, RequestCounter
from bridge.telemetry.duplicate_counter import DuplicateCounter
from bridge.telemetry.guard import never_raise
from bridge.telemetry.reasons import DEAD_LETTERS, OTHER, REJECTIONS
from bridge.telemetry.recent_activity import RecentActivity

DEAD_LETTER_TYPE = "dead-letter"
"""The event type of a dead letter: the name of its schema file."""

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PUBLISH_LATENCY_BUCKETS = (*_LATENCY_BUCKETS, 30, 60, 300, 1800, 3600, 21600, 86400)
_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Totals(NamedTuple):
    """Running totals since the start; latencies are (sum of seconds, count)."""

    deliveries: float
    acknowledged: float
    published: float
    acknowledge: tuple[float, int]
    publish: tuple[float, int]
    topics: dict[str, float]
    rejections: dict[str, float]
    dead_letters: dict[str, float]


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self, recent: RecentActivity | None = None) -> None:
        """`recent` also receives rejections, commits and dead letters."""
        self.registry = registry = CollectorRegistry()
        self._recent = recent or RecentActivity()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        latency = partial(Histogram, buckets=_LATENCY_BUCKETS, registry=registry)
        build = gauge("bridge_build_info", "Always 1; the label is the bridge's version.", ["version"])
        build.labels(version("gumlet-kafka-bridge")).set(1)

        self._requests = RequestCounter(registry)
        self._rejections = counter(
            "bridge_http_requests_rejected",
            "Requests and connections that the public port rejected, by HTTP status and reason.",
            ["status", "reason"],
        )
        for reason, status in REJECTIONS.items():
            self._rejections.labels(str(status), reason)
        self._ack_latency = latency("bridge_ack_latency_seconds", "Time from a delivery's headers to its response 200.")
        self._commit_latency = latency("bridge_journal_commit_seconds", "Time of one journal commit, with its fsync.")
        self._commit_size = latency(
            "bridge_journal_commit_deliveries", "Deliveries in one journal commit.", buckets=_BATCH_SIZE_BUCKETS
        )
        self.journal_damaged = counter("bridge_journal_corruptions", "Corrupted places found in the journal.")
        self.journal_missing = counter(
            "bridge_journal_lost_deliveries", "Acknowledged deliveries that a corrupted journal no longer holds."
        )
        self._quarantined_bytes = counter(
            "bridge_journal_quarantined_bytes",
            "Corrupted bytes found in the journal; copies are in its directory quarantine.",
        )
        self._abandoned_segments = counter(
            "bridge_journal_abandoned_segments", "Journal segments given up after a failed write or fsync."
        )
        self.records = counter("bridge_kafka_records_published", "Records that Kafka confirmed, by topic.", ["topic"])
        self._publish_latency = latency(
            "bridge_publish_latency_seconds",
            "Time from the receipt of a delivery to Kafka's confirmation of its record.",
            buckets=_PUBLISH_LATENCY_BUCKETS,
        )
        self._duplicates = counter(
            "bridge_duplicate_records",
            "Records that Kafka confirmed and whose id this process had published before (approximate: it recognizes "
            "half of the ids after 90,000 other events).",
        )
        self._ids = DuplicateCounter()
        self._dead_letters = counter(
            "bridge_dead_letters", "Deliveries published to the dead-letter topic, by reason.", ["reason"]
        )
        for reason in DEAD_LETTERS:
            self._dead_letters.labels(reason)
        self.kafka_connected = gauge(
            "bridge_kafka_connected", "Whether the producer is connected to Kafka (1) or not (0)."
        )
        self.producer_replacements = counter(
            "bridge_kafka_producer_restarts", "Kafka producers closed and replaced after a failure."
        )

    def initialize(self, sources: Iterable[str], topics: Iterable[str]) -> None:
        """Expose known sources and topics with 0, before their first delivery."""
        self._requests.add_sources(list(sources))
        for topic in topics:
            self.records.labels(topic)

    def record_acknowledgement(self, source: str, size: int, seconds: float) -> None:
        """Count a response 200 to a body of `size` bytes, ready `seconds` after the headers."""
        self._requests.count(source, 200, size)
        self._ack_latency.observe(seconds)

    @never_raise
    def record_rejection(self, source: str, status: int, reason: str) -> None:
        """Count a request or connection that was rejected."""
        self._requests.count(source, status)
        self._rejections.labels(str(int(status)), reason if reason in REJECTIONS else OTHER).inc()
        self._recent.record_rejection(int(status), reason, source)

    @never_raise
    def record_commit(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Count one journal commit that took `seconds`."""
        self._commit_latency.observe(seconds)
        self._commit_size.observe(len(deliveries))
        self._recent.record_commit(deliveries[0].received_ms, deliveries[-1].received_ms, time.time() * 1000)

    @never_raise
    def record_journal_damage(self, lost: int, size: int, *, repeated: bool = False) -> None:
        """Count deliveries lost in a corrupted place of the journal and, unless it is `repeated`, the place itself."""
        self.journal_missing.inc(lost)
        if not repeated:
            self.journal_damaged.inc()
            self._quarantined_bytes.inc(size)

    @never_raise
    def record_abandoned_segments(self, count: int) -> None:
        """Count segments of the journal given up after a failed write or fsync."""
        self._abandoned_segments.inc(count)

    @never_raise
    def record_published(self, events: Sequence[Event], now_ms: float) -> None:
        """Count records that Kafka has just confirmed: by topic, latency, duplicates, dead letters."""
        for topic, count in Tally(event.topic for event in events).items():
            self.records.labels(topic).inc(count)
        for received_ms, count in Tally(event.received_ms for event in events).items():
            self._publish_latency.observe(max(0.0, now_ms - received_ms) / 1000, count)
        if duplicates := self._ids.count_duplicates(event.id for event in events):
            self._duplicates.inc(duplicates)
        for event in events:
            if event.event_type == DEAD_LETTER_TYPE:
                self._record_dead_letter(event)

    @never_raise
    def _record_dead_letter(self, event: Event) -> None:
        record = orjson.loads(event.value)
        reason = record["reason"]
        self._dead_letters.labels(reason if reason in DEAD_LETTERS else OTHER).inc()
        self._recent.record_dead_letter(event, reason, record["detail"])

    def register_gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Expose a value that is read at each scrape."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def register_gauges(self, reading: Reading, values: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Expose values with labels that are read at each scrape; the caller bounds the label values."""
        self.registry.register(ReadingCollector(GaugeMetricFamily, reading, values))

    def register_drift(self, counts: Callable[[], Iterable[tuple[Labels, int]]]) -> None:
        """Expose how often a delivery had something that the contract does not know: bounded by its source."""
        reading = Reading(
            "bridge_schema_drift",
            "Unknown types, fields or values seen in deliveries, by kind, event type and path.",
            ("kind", "event_type", "path"),
        )
        self.registry.register(ReadingCollector(CounterMetricFamily, reading, counts))

    def journal_faults(self) -> tuple[int, int, int]:
        """Return the corrupted places, lost deliveries and abandoned segments that the journal has counted."""
        counters = (self.journal_damaged, self.journal_missing, self._abandoned_segments)
        corruptions, lost, abandoned = (int(_samples(counter)[""]) for counter in counters)
        return corruptions, lost, abandoned

    def totals(self) -> Totals:
        """Return the running totals that the page and the health checks use."""
        topics = _samples(self.records, "topic")
        return Totals(
            self._requests.total,
            self._requests.acknowledged,
            sum(topics.values()),
            self._ack_latency.total,
            self._publish_latency.total,
            topics,
            _samples(self._rejections, "reason"),
            _samples(self._dead_letters, "reason"),
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _samples(counter: Counter, label: str = "") -> dict[str, float]:
    """Return a counter's values, added up by one of its labels; without one, under the empty name."""
    values: defaultdict[str, float] = defaultdict(float)
    for sample in (sample for family in counter.collect() for sample in family.samples):
        if sample.name.endswith("_total"):
            values[sample.labels.get(label, "")] += sample.value
    return dict(values)
