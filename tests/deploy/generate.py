"""Writes the generated files of deploy/: `make generate-deploy`. `make check-deploy` fails when one is out of date.

* METRICS.md from what a running daemon exposes.
* The monitoring component's PrometheusRule from prometheus/rules.yaml.
* SIZING.md from the measures in sizing.json, with byte sizes measured again.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families

from bridge.telemetry.metrics import Metrics
from tests.deploy import sizing
from tests.deploy.external_tools import DEPLOY
from tests.support.daemon import Daemon, request

METRICS = DEPLOY / "METRICS.md"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PROMETHEUS_RULE = DEPLOY / "kubernetes" / "components" / "monitoring" / "rules.yaml"
NO_KAFKA = "127.0.0.1:9"
MADE = "Made by `make generate-deploy`; do not edit."


@cache
def exposed_text() -> str:
    """Return what a real daemon exposes, word for word; it is asked once."""
    with TemporaryDirectory() as directory, Daemon(Path(directory), NO_KAFKA) as daemon:
        daemon.post(b"{}")
        daemon.post(b"{}", token=None)
        return request(daemon.admin, "GET", "/metrics").body


def exposed() -> dict[str, Metric]:
    """Return what a real daemon exposes, by the names that a query uses less their `_total`, `_bucket` and so on."""
    return {family.name: family for family in text_string_to_metric_families(exposed_text())}


def sample_names(families: dict[str, Metric]) -> set[str]:
    """Return every name that a query may use."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "summary": ["", "_sum", "_count"]}
    return {f"{name}{end}" for name, family in families.items() for end in endings.get(family.type, [""])}


def label_names(collector: Counter | Gauge | Histogram) -> list[str]:
    """Return a metric's label names, from a sample that is created for it."""
    for count in range(1, 6):
        with suppress(ValueError):  # another number of labels, or none
            collector.labels(*["-"] * count)
            return [name for name in next(iter(collector.collect())).samples[-1].labels if name != "le"]
    return []


def metrics_page(families: dict[str, Metric]) -> str:
    """Return METRICS.md."""
    labels = {
        name: sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        for name, family in families.items()
    }
    for collector in vars(Metrics()).values():  # those that have no sample yet
        if isinstance(collector, Counter | Gauge | Histogram):
            (family,) = collector.collect()
            labels[family.name] = label_names(collector)
    lines = [
        "# Metrics",
        "",
        f"At `/metrics` of the admin port. {MADE}",
        "",
        "| name | type | labels | |",
        "|---|---|---|---|",
    ]
    for name, family in sorted(families.items()):
        if name.startswith("bridge_") and not name.endswith("_created"):
            queried = f"{name}_total" if family.type == "counter" else name
            label_list = ", ".join(f"`{label}`" for label in labels[name])
            lines.append(f"| `{queried}` | {family.type} | {label_list} | {family.documentation} |")
    lines += ["", "In addition, the standard metrics of a Python process: `process_…`, `python_…`.", ""]
    return "\n".join(lines)


def prometheus_rule() -> str:
    """Return the rules as the Prometheus operator takes them."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "bridge"},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return f"# {MADE}\n" + yaml.safe_dump(rule, sort_keys=False, width=1000)


if __name__ == "__main__":
    METRICS.write_text(metrics_page(exposed()))
    PROMETHEUS_RULE.write_text(prometheus_rule())
    sizing.write()
