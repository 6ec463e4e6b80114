"""Prometheus collectors for values that are counted as plain numbers, or read only when metrics are scraped.

One thread counts everything, so the locks of the library's own metric classes would only cost CPU for each delivery.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from bridge.telemetry.reasons import OTHER

MAX_SOURCES = 100
"""Distinct values of the label `source`; later ones are counted as `other`."""

Labels = tuple[str, ...]


class Histogram(Collector):
    """A histogram that one thread observes."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that was seen `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    @property
    def total(self) -> tuple[float, int]:
        """The sum of all values, and their number."""
        return self._sum, sum(self._counts)

    def collect(self) -> Iterable[Metric]:
        """Return the cumulative counts of the buckets."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((str(float(bound)) if bound != float("inf") else "+Inf", total))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class RequestCounter(Collector):
    """Counts responses by source and status, and the bytes of acknowledged bodies. Bounded by `MAX_SOURCES`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sources: set[str] = set()
        self._counts: Tally[tuple[str, int]] = Tally()
        self._bytes = 0
        self.total = self.acknowledged = 0
        registry.register(self)

    def add_sources(self, sources: Iterable[str]) -> None:
        """Expose sources that are known from the configuration, before their first delivery."""
        self._sources.update(sources)
        self._counts.update(dict.fromkeys(((source, 200) for source in sources), 0))

    def count(self, source: str, status: int, body_bytes: int = 0) -> None:
        """Count one response."""
        if source not in self._sources:
            if len(self._sources) < MAX_SOURCES:
                self._sources.add(source)
            else:
                source = OTHER
        self._counts[source, status] += 1
        self.total += 1
        self.acknowledged += status == 200  # noqa: PLR2004 - the status of an acknowledgement
        self._bytes += body_bytes

    def collect(self) -> Iterable[Metric]:
        """Return the counts."""
        family = CounterMetricFamily(
            "bridge_http_requests",
            "Responses of the public port, by the source in the URL and the HTTP status.",
            labels=["source", "status"],
        )
        for (source, status), count in self._counts.items():
            family.add_metric([source, str(int(status))], count)
        yield family
        yield CounterMetricFamily(
            "bridge_http_request_body_bytes", "Bytes of acknowledged request bodies.", value=self._bytes
        )


class Reading(NamedTuple):
    """A metric that is read when metrics are scraped: name, HELP, label names."""

    name: str
    documentation: str
    labels: Labels


class ReadingCollector(Collector):
    """Asks a callable for label values and numbers at each scrape: normal operation pays nothing for them."""

    def __init__(
        self,
        kind: type[GaugeMetricFamily | CounterMetricFamily],
        reading: Reading,
        values: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        self._kind = kind
        self._reading = reading
        self._values = values

    def collect(self) -> Iterator[Metric]:
        """Return one sample for each set of label values."""
        name, documentation, labels = self._reading
        family = self._kind(name, documentation, labels=labels)
        for label_values, value in self._values():
            family.add_metric(label_values, value)
        yield family
