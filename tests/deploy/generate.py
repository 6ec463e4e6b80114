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

from bridge.contract.schemas import Contract
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


RIGHTS = {
    "bridge": ("Write", "DescribeConfigs"),
    "bridge-operator": ("Read", "Write", "DescribeConfigs"),
    "bridge-topics": ("Create", "Alter", "AlterConfigs"),
    "bridge-consumer": ("Read",),
}
"""Each user's operations on the contract's topics: the daemon's with BRIDGE_TOPICS_PROVISION=verify; the user's of the
commands that read events (`tail`, `assets`, `dead-letter`, `reconcile`) and publish them again; and the user's of
`topics apply`; and a consumer's. Kafka derives Describe from Read, Write and Alter, and DescribeConfigs from
AlterConfigs."""
GROUPS = {"bridge-consumer": "gumlet-"}
"""The prefix of the consumer groups that a user may join: that is Read on the group."""


def strimzi_topics() -> str:
    """Return a KafkaTopic of the Strimzi operator for each topic of the contract."""
    topics = [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": topic.name, "labels": {"strimzi.io/cluster": "kafka"}},
            "spec": {"partitions": topic.partitions, "replicas": 3, "config": dict(topic.config)},
        }
        for topic in Contract.load("gumlet.").topics.values()
    ]
    return f"# {MADE}\n" + yaml.safe_dump_all(topics, sort_keys=False, width=1000)


def strimzi_users() -> str:
    """Return the KafkaUsers of RIGHTS for the Strimzi operator."""
    users = []
    for name, operations in RIGHTS.items():
        resource = {"type": "topic", "name": "gumlet.", "patternType": "prefix"}
        acls = [{"resource": resource, "operations": list(operations), "host": "*"}]
        if group := GROUPS.get(name):
            resource = {"type": "group", "name": group, "patternType": "prefix"}
            acls.append({"resource": resource, "operations": ["Read"], "host": "*"})
        spec = {"authentication": {"type": "scram-sha-512"}, "authorization": {"type": "simple", "acls": acls}}
        metadata = {"name": name, "labels": {"strimzi.io/cluster": "kafka"}}
        users.append({"apiVersion": "kafka.strimzi.io/v1", "kind": "KafkaUser", "metadata": metadata, "spec": spec})
    return f"# {MADE}\n" + yaml.safe_dump_all(users, sort_keys=False, width=1000)


def acl_commands() -> str:
    """Return the same rights as commands of Kafka's own tool."""
    lines = [
        "#!/bin/sh",
        f"# {MADE}",
        "# Grants the users their rights on the contract's topics and groups, with an administrator's properties file.",
        "# bridge: the daemon. bridge-operator: commands that read and republish events. bridge-topics: topics apply.",
        "# bridge-consumer: a consumer whose group's name begins with gumlet-. Usage:",
        "#   BOOTSTRAP=kafka:9092 COMMAND_CONFIG=admin.properties sh kafka-acls.sh",
        "set -eu",
    ]
    grants = [(name, operations, "--topic gumlet.") for name, operations in RIGHTS.items()]
    grants += [(name, ("Read",), f"--group {group}") for name, group in GROUPS.items()]
    for name, operations, resource in grants:
        chosen = " ".join(f"--operation {operation}" for operation in operations)
        lines += [
            'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \\',
            f"  --allow-principal User:{name} {chosen} \\",
            f"  {resource} --resource-pattern-type prefixed",
        ]
    return "\n".join(lines) + "\n"


GENERATED = {
    DEPLOY / "kubernetes" / "strimzi" / "topics.yaml": strimzi_topics,
    DEPLOY / "kubernetes" / "strimzi" / "users.yaml": strimzi_users,
    DEPLOY / "kafka-acls.sh": acl_commands,
}
"""Files made from the contract alone, each with the function that returns its text."""


if __name__ == "__main__":
    for path, text in GENERATED.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text())
    METRICS.write_text(metrics_page(exposed()))
    PROMETHEUS_RULE.write_text(prometheus_rule())
    sizing.write()
