"""Rules, dashboard and the table of metrics, against what a real daemon exposes and by Prometheus' own tools."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from tests.deploy import generate
from tests.deploy.external_tools import DEPLOY, run, tool

PROMETHEUS = DEPLOY / "prometheus"
OF_PROMETHEUS = {"up", "ALERTS"}
_STRINGS = re.compile(r'"[^"]*"')
_NAMES = re.compile(r"\b(?:bridge|process|python|up)(?:_[a-z0-9_]+)?\b(?!\s*[(=])")


@pytest.fixture(scope="module")
def families() -> dict[str, Metric]:
    """Return what a running daemon exposes."""
    return generate.exposed()


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    return set(_NAMES.findall(_STRINGS.sub('""', expression))) - OF_PROMETHEUS


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard."""
    return dict(json.loads((DEPLOY / "grafana" / "dashboards" / "bridge.json").read_text()))


def queries() -> list[str]:
    """Return the dashboard's queries as Prometheus gets them."""
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in expressions]


def rules() -> list[dict[str, Any]]:
    """Return all alerting rules."""
    document = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_rules_name_only_metrics_that_exist(families: dict[str, Metric]) -> None:
    """An alert on a metric that was renamed would never fire."""
    known = generate.sample_names(families)
    assert {rule["alert"]: missing for rule in rules() if (missing := names_in(rule["expr"]) - known)} == {}


def test_runbooks_name_only_metrics_that_exist(families: dict[str, Metric]) -> None:
    """An operator looks for what the text names."""
    known = generate.sample_names(families) | set(families)
    named = {name for rule in rules() for name in re.findall(r"bridge_\w+", rule["annotations"]["description"])}
    assert named <= known


def test_every_alert_says_what_it_means_what_to_look_at_and_what_to_do() -> None:
    """A page without a next step is noise."""
    for rule in rules():
        assert re.match(r"Means: .+ Look at: .+ Do: .+", rule["annotations"]["description"]), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_dashboard_names_only_metrics_that_exist(families: dict[str, Metric]) -> None:
    """No panel is empty because of a name."""
    known = generate.sample_names(families)
    assert all(names_in(each) for each in queries())
    assert {each for query in queries() for each in names_in(query)} <= known


def test_a_name_that_does_not_exist_is_found(families: dict[str, Metric]) -> None:
    """The check itself: it sees a misspelt metric, and takes no function or label for one."""
    misspelt = 'sum by (topic) (rate(bridge_record_total{instance="bridge_x"}[5m])) / bridge_ready'
    assert names_in(misspelt) - generate.sample_names(families) == {"bridge_record_total"}


def test_dashboard_queries_are_promql(tmp_path: Path) -> None:
    """Prometheus itself parses each query."""
    group = {"name": "queries", "rules": [{"record": f"query:{n}", "expr": each} for n, each in enumerate(queries())]}
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [group]}))
    run(tool("promtool"), "check", "rules", path)


def test_rules_are_valid_and_fire_when_they_should() -> None:
    """Prometheus' own tool checks the rules, runs their unit tests, and reads the configuration."""
    promtool = tool("promtool")
    run(promtool, "check", "config", "prometheus.yaml", cwd=PROMETHEUS)
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", cwd=PROMETHEUS)
    run(promtool, "test", "rules", "rules.test.yaml", cwd=PROMETHEUS)


def test_no_alert_is_untested() -> None:
    """Each alert is made to fire by a unit test."""
    tests = (PROMETHEUS / "rules.test.yaml").read_text()
    assert [rule["alert"] for rule in rules() if f'"{rule["alert"]}"' not in tests] == []


def test_metrics_keep_the_conventions() -> None:
    """Prometheus' linter finds nothing in what the daemon's own metrics are called."""
    text = "".join(generate.exposed_text().partition("# HELP bridge_")[1:])
    run(tool("promtool"), "check", "metrics", data=text)


def test_generated_files_are_up_to_date(families: dict[str, Metric]) -> None:
    """`make generate-deploy` has been run since the metrics or the rules changed."""
    assert generate.METRICS.read_text() == generate.metrics_page(families)
    assert generate.PROMETHEUS_RULE.read_text() == generate.prometheus_rule()


def test_no_alert_loses_namespace_and_pod() -> None:
    """An aggregation keeps both, so that an alert names the pod that it is about."""
    aggregations = re.compile(r"\b(?:sum|max|min|count|avg)\s*(?:by\s*\(([^)]*)\))?\s*\(")
    for rule in rules():
        for labels in aggregations.findall(rule["expr"]):
            assert {"namespace", "pod"} <= set(re.findall(r"\w+", labels)), rule["alert"]
