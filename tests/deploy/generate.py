"""Generates files of deploy/: `make generate-deploy`. `make check-deploy` fails when one is out of date.

* METRICS.md from the metrics of a running daemon.
* The monitoring component's PrometheusRule from prometheus/rules.yaml.
* SIZING.md from the measurements in sizing.json; sizes in bytes are measured again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy import sizing
from tests.deploy.external_tools import DEPLOY
from tests.support.daemon import Daemon, request

METRICS = DEPLOY / "METRICS.md"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PROMETHEUS_RULE = DEPLOY / "kubernetes" / "components" / "monitoring" / "rules.yaml"
LABELS = {
    "bridge_parked_deliveries": ["topic"],
    "bridge_schema_drift": ["event_type", "kind", "path"],
    "bridge_token_expiry_timestamp_seconds": ["name"],
    "bridge_token_last_used_timestamp_seconds": ["name"],
    "bridge_topic_mismatches": ["topic"],
}
"""Labels of the metrics that have no sample while nothing has happened."""
NO_KAFKA = "127.0.0.1:9"
MADE = "Made by `make generate-deploy`; do not edit."


@cache
def exposed_text() -> str:
    """Return the text of /metrics of a real daemon; it is started once."""
    with TemporaryDirectory() as directory, Daemon(Path(directory), NO_KAFKA) as daemon:
        daemon.post(b"{}")
        daemon.post(b"{}", token=None)
        return request(daemon.admin, "GET", "/metrics").body


def exposed() -> dict[str, Metric]:
    """Return the metric families of a real daemon by name, without `_total`, `_bucket` and so on."""
    return {family.name: family for family in text_string_to_metric_families(exposed_text())}


def sample_names(families: dict[str, Metric]) -> set[str]:
    """Return every name that a query may use."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "summary": ["", "_sum", "_count"]}
    return {f"{name}{end}" for name, family in families.items() for end in endings.get(family.type, [""])}


def metrics_page(families: dict[str, Metric]) -> str:
    """Return METRICS.md."""
    labels = {
        name: sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        for name, family in families.items()
    }
    labels |= {name: LABELS[name] for name, family in families.items() if not family.samples}
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
            shown = ", ".join(f"`{label}`" for label in labels[name])
            lines.append(f"| `{queried}` | {family.type} | {shown} | {family.documentation} |")
    lines += ["", "In addition to these, the usual metrics of a Python process: `process_…`, `python_…`.", ""]
    return "\n".join(lines)


def prometheus_rule() -> str:
    """Return the rules as a resource of the Prometheus operator."""
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
