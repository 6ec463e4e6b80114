"""The Helm chart renders the same objects as the Kustomize overlays, and its values are validated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.external_tools import DEPLOY, run, schemas, tool
from tests.deploy.files.test_kubernetes import KUBERNETES, check_policies, compose

CHART = DEPLOY / "helm" / "gumlet-kafka-bridge"
OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")
"""Labels that only the chart sets."""


def render(*options: str) -> str:
    """Render the chart as `helm install` would, into the namespace gumlet."""
    return run(tool("helm"), "template", "bridge", CHART, "--namespace", "gumlet", *options)


def normalize(text: str) -> dict[str, Any]:
    """Return objects by kind and name, without namespaces, Kustomize's hashes in names and Helm's own labels."""
    objects: dict[str, Any] = {}
    for document in yaml.safe_load_all(re.sub(r"\bbridge-[a-z0-9]{10}\b", "bridge", text)):
        if document and document["kind"] != "Namespace":
            metadata = document["metadata"]
            metadata.pop("namespace", None)
            hooks = metadata.pop("annotations", {})
            if kept := {key: value for key, value in hooks.items() if not key.startswith("helm.sh/")}:
                metadata["annotations"] = kept
            metadata["labels"] = {key: value for key, value in metadata["labels"].items() if key not in OF_HELM}
            template = document["spec"].get("template", {}).get("metadata", {}) if "spec" in document else {}
            template.pop("annotations", None)
            template["labels"] = dict(template.get("labels", {}))
            objects[f"{document['kind']}/{metadata['name']}"] = document
    return objects


def test_chart_passes_helms_own_linter() -> None:
    """Templates, values and metadata are well-formed."""
    run(tool("helm"), "lint", "--strict", CHART)


@pytest.mark.parametrize(
    ("overlay", "options"), [("journal", ("--set=image.tag=0.1.0",)), ("ack-kafka", ("--set=ack=kafka",))]
)
def test_chart_and_overlay_render_the_same_objects(overlay: str, options: tuple[str, ...]) -> None:
    """A difference between the two would give users of one of them another bridge."""
    of_kustomize = normalize(run(tool("kubectl"), "kustomize", KUBERNETES / "overlays" / overlay))
    of_helm = normalize(render(*options))
    assert of_helm.keys() == of_kustomize.keys()
    for name, rendered in of_helm.items():
        assert rendered == of_kustomize[name], name


def test_chart_and_component_render_the_same_job_for_the_topics(tmp_path: Path) -> None:
    """The option `topics.apply` is the component `topics`."""
    own = compose("topics", tmp_path=tmp_path, image="registry.example.com/gumlet-kafka-bridge")
    of_kustomize = normalize(yaml.safe_dump_all([own["Job/bridge-topics"]]))
    of_helm = normalize(render("--set=topics.apply=true", "--set=image.tag=0.1.0"))
    assert of_helm["Job/bridge-topics"] == of_kustomize["Job/bridge-topics"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--set=topics.apply=true",),
        ("--set=ack=kafka", "--set=ingress.enabled=true"),
        ("--set=gateway.enabled=true", "--set=fixedIds=false", "--set=journal.storageClassName=fast"),
        ("--set=monitoring.enabled=true", "--set=monitoring.labels.release=kube-prometheus-stack"),
    ],
)
def test_rendered_chart_is_valid_and_keeps_the_policies(options: tuple[str, ...], tmp_path: Path) -> None:
    """The API server's own types accept it, and kube-score finds nothing."""
    path = tmp_path / "rendered.yaml"
    path.write_text(render(*options))
    run(tool("kubectl-validate"), *schemas(), path)
    if "--set=fixedIds=false" not in options:
        check_policies(path)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--set=ack=disk", "ack"),
        ("--set=journal.sise=1Gi", "sise"),
        ("--set=settings.TOKENS=x", "TOKENS"),
        ("--set=autoscaling.minReplicas=0", "minReplicas"),
        ("--set=settings=null", "settings"),
    ],
)
def test_wrong_value_is_refused_by_name(option: str, named: str) -> None:
    """A misspelt value must not be ignored in silence."""
    with pytest.raises(AssertionError, match=named):
        render(option)


def test_every_value_is_in_the_schema_and_every_setting_exists() -> None:
    """values.yaml documents exactly what values.schema.json validates."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert values.keys() | {"global"} == schema["properties"].keys()
    for name, value in values.items():
        properties = schema["properties"][name].get("properties")
        assert properties is None or value.keys() == properties.keys(), name
