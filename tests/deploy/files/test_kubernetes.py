"""Every overlay is rendered, valid by Kubernetes' own schemas, and keeps the rules of a restricted cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from bridge.cli import COMMANDS
from bridge.config.settings import PREFIX
from tests.deploy.external_tools import DEPLOY, run, schemas, tool
from tests.deploy.files.test_image import known_variables
from tests.deploy.generate import GENERATED, exposed
from tests.support.daemon import BRIDGE, environment

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
NOT_ASKED = (
    "container-image-pull-policy",  # a tag never changes its image here; there is nothing new to pull
    "statefulset-has-host-podantiaffinity",  # the topology spread does this, and lets a small cluster run it
    "deployment-has-host-podantiaffinity",
)


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render an overlay into a file."""
    path = tmp_path_factory.mktemp("rendered") / f"{request.param}.yaml"
    path.write_text(run(tool("kubectl"), "kustomize", KUBERNETES / "overlays" / request.param))
    return path


@pytest.fixture
def objects(rendered: Path) -> dict[str, dict[str, Any]]:
    """Return the rendered objects by kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(rendered.read_text())}


def validate(path: Path) -> None:
    """Have objects judged by the API server's own rules, with the types of a current Kubernetes and its extensions."""
    run(tool("kubectl-validate"), *schemas(), path)


def check_policies(*paths: Path) -> None:
    """Have kube-score check resources, probes, network policies, budgets and security contexts of objects."""
    ignored = [word for each in NOT_ASKED for word in ("--ignore-test", each)]
    run(tool("kube-score"), "score", *ignored, "--exit-one-on-warning", "--output-format", "ci", *paths)


def workload(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the StatefulSet or Deployment."""
    (found,) = [each for name, each in objects.items() if name in ("StatefulSet/bridge", "Deployment/bridge")]
    return found


def test_overlay_is_valid_by_the_schemas(rendered: Path) -> None:
    """A misspelt or misplaced field, which a cluster would refuse or drop, is found here."""
    validate(rendered)


def test_secret_example_is_valid() -> None:
    """What people copy works, and holds no secret."""
    path = KUBERNETES / "secret.example.yaml"
    validate(path)
    assert yaml.safe_load(path.read_text())["stringData"] == {"tokens": "replace-this-with-a-random-token\n"}


def test_drain_job_is_admitted_by_a_cluster(rendered: Path) -> None:
    """Valid, fit for the restricted namespace, covered by the overlay's network policies; its settings exist."""
    path = KUBERNETES / "drain.example.yaml"
    validate(path)
    check_policies(path, rendered)
    job = yaml.safe_load(path.read_text())
    pod = job["spec"]["template"]["spec"]
    fit_for_a_restricted_namespace(pod)
    assert {each["name"] for each in pod["containers"][0]["env"]} <= known_variables()


def test_bridge_understands_what_the_drain_asks_for(tmp_path: Path) -> None:
    """Arguments and settings are those of the command: all that it misses is the volume."""
    job = yaml.safe_load((KUBERNETES / "drain.example.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = [str(tmp_path) if each.startswith("/var") else each for each in container["args"]]
    settings = {each["name"].removeprefix(PREFIX).lower(): each["value"] for each in container["env"]}
    done = subprocess.run(
        [*BRIDGE, *arguments], env=environment(**settings), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"there is no journal in {tmp_path}" in done.stderr


def test_drain_finds_the_replicas_journal_and_gets_no_deliveries(objects: dict[str, dict[str, Any]]) -> None:
    """The claim, the mount and the folder are those of a replica that is gone; no Service chooses the Job's pod."""
    job = yaml.safe_load((KUBERNETES / "drain.example.yaml").read_text())
    template = job["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (replica,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    mounts = {each["name"]: each["mountPath"] for each in replica["volumeMounts"]}
    assert {each["name"]: each["mountPath"] for each in container["volumeMounts"]}.items() <= mounts.items()
    directory = next(each["value"] for each in replica["env"] if each["name"] == "BRIDGE_JOURNAL_DIR")
    assert container["args"][:4] == ["journal", "drain", "--dir", directory]
    assert container["image"].partition(":")[0] == replica["image"].partition(":")[0]
    for claim in workload(objects)["spec"].get("volumeClaimTemplates", []):
        name = f"{claim['metadata']['name']}-{workload(objects)['metadata']['name']}-3"
        assert template["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == name
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    for name, each in objects.items():
        if name.startswith("Service/"):
            assert not each["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    for name in ("NetworkPolicy/bridge-to-kafka", "NetworkPolicy/bridge-to-dns"):
        assert selects(objects[name]["spec"]["podSelector"], template["metadata"]["labels"])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a label selector, of exact values or of `In` expressions, selects a pod with these labels."""
    exact = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    return exact.items() <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in expressions)


def test_overlay_keeps_the_policies(rendered: Path) -> None:
    """kube-score finds limits, probes, policies, budgets and security contexts as they should be."""
    check_policies(rendered)


def test_pods_may_run_in_a_restricted_namespace(objects: dict[str, dict[str, Any]]) -> None:
    """What the restricted Pod Security standard asks for is said by the pod, and the namespace asks for it."""
    fit_for_a_restricted_namespace(workload(objects)["spec"]["template"]["spec"])
    assert objects["Namespace/gumlet"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert objects["ServiceAccount/bridge"]["automountServiceAccountToken"] is False


def fit_for_a_restricted_namespace(pod: dict[str, Any]) -> None:
    """Find in a pod what the restricted Pod Security standard asks for."""
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_image_has_one_tag_that_is_not_latest(objects: dict[str, dict[str, Any]]) -> None:
    """Which program runs never depends on the day it was pulled."""
    (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    assert re.fullmatch(r".+/gumlet-kafka-bridge:\d+\.\d+\.\d+", container["image"])


def test_every_selector_finds_the_pods_and_nothing_else(objects: dict[str, dict[str, Any]]) -> None:
    """A budget or policy with an empty selector would rule over every pod of the namespace."""
    labels = workload(objects)["spec"]["template"]["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for name, each in objects.items() if name.startswith("Service/")]
    selectors += [
        objects["PodDisruptionBudget/bridge"]["spec"]["selector"]["matchLabels"],
        *(
            objects[f"NetworkPolicy/{name}"]["spec"]["podSelector"]["matchLabels"]
            for name in ("bridge-from-gateway", "bridge-from-monitoring")
        ),
        workload(objects)["spec"]["selector"]["matchLabels"],
    ]
    spread = workload(objects)["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors += [each["labelSelector"]["matchLabels"] for each in spread]
    assert all(selectors)
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_autoscaler_scales_the_workload_that_is_there(objects: dict[str, dict[str, Any]]) -> None:
    """The overlay that changes the kind changes the autoscaler's target with it."""
    target = objects["HorizontalPodAutoscaler/bridge"]["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in objects
    assert target["kind"] == workload(objects)["kind"]


def test_autoscaler_watches_a_metric_that_exists(objects: dict[str, dict[str, Any]]) -> None:
    """An autoscaler without a value for its metric never scales: the metric is CPU or a gauge of the daemon."""
    gauges = {name for name, family in exposed().items() if family.type == "gauge"}
    metrics = objects["HorizontalPodAutoscaler/bridge"]["spec"]["metrics"]
    assert metrics[0]["resource"]["name"] == "cpu"
    assert {each["pods"]["metric"]["name"] for each in metrics[1:]} <= gauges
    assert len(metrics) == (2 if "PrometheusRule/bridge" in objects else 1)


def test_grace_period_covers_the_drain(objects: dict[str, dict[str, Any]]) -> None:
    """A pod is not killed while it still finishes requests and drains: twice the bound, after the pause."""
    pod = workload(objects)["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + 2 * 25


def test_configuration_names_only_settings_that_exist(objects: dict[str, dict[str, Any]]) -> None:
    """A misspelt variable would silently change nothing."""
    (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    names = {each["name"] for each in container["env"]}
    for name, each in objects.items():
        if name.startswith("ConfigMap/"):
            names |= each["data"].keys()
    assert names <= known_variables()


def test_admin_port_is_reached_from_monitoring_only(objects: dict[str, dict[str, Any]]) -> None:
    """The public Service has no port for health, metrics and the page, and only monitoring may connect to it."""
    (admin,) = objects["NetworkPolicy/bridge-from-monitoring"]["spec"]["ingress"]
    assert admin["ports"] == [{"protocol": "TCP", "port": "admin"}]
    (public,) = objects["NetworkPolicy/bridge-from-gateway"]["spec"]["ingress"]
    assert public["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert admin["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [port["targetPort"] for port in objects["Service/bridge"]["spec"]["ports"]] == ["http"]


@pytest.fixture(scope="module")
def reconciled() -> dict[str, dict[str, Any]]:
    """Return the objects of the overlay with the scheduled reconciliation, by kind and name."""
    text = run(tool("kubectl"), "kustomize", KUBERNETES / "overlays" / "journal-reconciled")
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


def test_reconciliation_runs_alone_and_restricted(reconciled: dict[str, dict[str, Any]]) -> None:
    """Never two at a time; a pod that the restricted standard admits, with the bridge's configuration and image."""
    job = reconciled["CronJob/bridge-reconcile"]["spec"]
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (bridge,) = workload(reconciled)["spec"]["template"]["spec"]["containers"]
    assert job["concurrencyPolicy"] == "Forbid"
    assert pod["securityContext"] == {
        name: value
        for name, value in workload(reconciled)["spec"]["template"]["spec"]["securityContext"].items()
        if name != "fsGroupChangePolicy"
    }
    assert container["securityContext"] == bridge["securityContext"]
    assert (container["image"], container["envFrom"]) == (bridge["image"], bridge["envFrom"])
    assert {each["name"] for each in container["env"]} <= known_variables()
    (key,) = [each for each in container["env"] if each["name"] == "BRIDGE_GUMLET_API_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "bridge-gumlet", "key": "api-key"}}


def test_reconciliation_job_runs_a_command_that_exists_and_does_not_ask(reconciled: dict[str, dict[str, Any]]) -> None:
    """The command accepts the arguments, and needs no answer from a terminal."""
    pod = reconciled["CronJob/bridge-reconcile"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, *options = container["args"]
    command = typer.main.get_command(import_module(COMMANDS[name]).app)
    assert command.make_context(name, options).params["yes"] is True


def test_nothing_of_the_bridges_selects_the_reconciliation(reconciled: dict[str, dict[str, Any]]) -> None:
    """No delivery is sent to its pod, and a policy of its own lets it reach Gumlet."""
    labels = reconciled["CronJob/bridge-reconcile"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    bridges = reconciled["Service/bridge"]["spec"]["selector"]
    assert not bridges.items() <= labels.items()
    policy = reconciled["NetworkPolicy/bridge-reconcile"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert "ingress" not in policy
    assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [443]
    for shared in ("NetworkPolicy/bridge-to-kafka", "NetworkPolicy/bridge-to-dns"):
        assert selects(reconciled[shared]["spec"]["podSelector"], labels)


def test_service_sends_deliveries_to_the_pods_of_one_mode(objects: dict[str, dict[str, Any]]) -> None:
    """With both modes' workloads in one namespace, the Service selects the pods of the overlay applied last."""
    labels = workload(objects)["spec"]["template"]["metadata"]["labels"]
    mode = "kafka" if workload(objects)["kind"] == "Deployment" else "journal"
    assert labels["gumlet-kafka-bridge/ack"] == mode
    assert objects["Service/bridge"]["spec"]["selector"]["gumlet-kafka-bridge/ack"] == mode


def compose(
    *components: str, tmp_path: Path, image: str = "gumlet-kafka-bridge", overlay: str = "journal"
) -> dict[str, dict[str, Any]]:
    """Render an overlay of a user's own: one of ours and components, with the image of the Jobs."""
    copied = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    own = copied / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: gumlet\n"
        f"resources: [../{overlay}]\ncomponents: [{', '.join(f'../../components/{name}' for name in components)}]\n"
        f"images: [{{name: gumlet-kafka-bridge, newName: {image}, newTag: 0.1.0}}]\n"
    )
    text = run(tool("kubectl"), "kustomize", own)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize("kind", ["Ingress", "HTTPRoute"])
def test_route_leads_to_the_public_port_only(kind: str, tmp_path: Path) -> None:
    """Neither an Ingress nor a Gateway reaches the admin port."""
    objects = compose("gateway" if kind == "HTTPRoute" else "ingress", tmp_path=tmp_path)
    (rule,) = objects[f"{kind}/bridge"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"] if kind == "Ingress" else rule["backendRefs"][0]
    assert backend["name"] == "bridge"
    assert backend["port"] in ({"name": "http"}, 80)


@pytest.mark.parametrize("overlay", ["journal", "ack-kafka"])
def test_openshift_component_leaves_ids_to_the_platform(overlay: str, tmp_path: Path) -> None:
    """The restricted-v2 policy rejects pods that ask for a user or group id of their own: no pod of any kind does."""
    objects = compose("topics", "reconcile", "openshift", tmp_path=tmp_path, overlay=overlay)
    pods = [
        workload(objects)["spec"]["template"],
        objects["Job/bridge-topics"]["spec"]["template"],
        objects["CronJob/bridge-reconcile"]["spec"]["jobTemplate"]["spec"]["template"],
    ]
    for pod in pods:
        assert pod["spec"]["securityContext"].keys() <= {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}


@pytest.mark.parametrize("component", ["kafka-scram", "kafka-mtls"])
def test_kafka_component_mounts_every_file_that_it_names(component: str, tmp_path: Path) -> None:
    """Its settings exist, and each file that they name lies in a mounted Secret."""
    objects = compose(component, tmp_path=tmp_path)
    (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    (data,) = [each["data"] for name, each in objects.items() if name.startswith("ConfigMap/")]
    assert data.keys() | {each["name"] for each in container["env"]} <= known_variables()
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    secrets = {
        each["name"]: each["secret"]["secretName"]
        for each in workload(objects)["spec"]["template"]["spec"]["volumes"]
        if "secret" in each
    }
    files = [Path(value) for value in data.values() if value.startswith("/etc/")]
    assert files
    assert all(mounts[str(file.parent)] in secrets for file in files)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_file_is_up_to_date(path: Path) -> None:
    """Topics and rights follow the contract: `make generate-deploy` writes them."""
    assert path.read_text() == GENERATED[path]()


@pytest.mark.parametrize("security", ["kafka-scram", "kafka-mtls"])
def test_jobs_have_the_settings_and_the_files_of_the_bridge(security: str, tmp_path: Path) -> None:
    """The topics Job and the reconciliation reach a secured Kafka: the same files, a command that does not ask."""
    objects = compose("topics", "reconcile", security, tmp_path=tmp_path)
    (bridge,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    job = objects["Job/bridge-topics"]["spec"]["template"]
    cron = objects["CronJob/bridge-reconcile"]["spec"]["jobTemplate"]["spec"]["template"]
    for pod in (job, cron):
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"][0] == bridge["envFrom"][0]
        assert container["volumeMounts"][0] in bridge["volumeMounts"]
        assert pod["spec"]["volumes"][0] in workload(objects)["spec"]["template"]["spec"]["volumes"]
        assert container["securityContext"] == bridge["securityContext"]
        for shared in ("NetworkPolicy/bridge-to-kafka", "NetworkPolicy/bridge-to-dns"):
            assert selects(objects[shared]["spec"]["podSelector"], pod["metadata"]["labels"])
    name, *options = job["spec"]["containers"][0]["args"]
    command = typer.main.get_command(import_module(COMMANDS[name]).app)
    assert isinstance(command, TyperGroup)
    assert command.commands[options[0]].make_context(options[0], options[1:]).params["yes"] is True
