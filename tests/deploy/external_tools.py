"""Tools that judge what is in deploy/, taken from the machine, or from Go's module proxy once into .cache/tools.

A check is skipped by name if its tool is unavailable: pytest's summary then lists what was not checked.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".cache" / "tools"
BUILD_SECONDS = 900


class GoTool(NamedTuple):
    """A command that Go builds: its package and its pinned version."""

    package: str
    version: str


GO_TOOLS = {
    # What `docker compose` reads files with, without the engine.
    "compose-spec": GoTool("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2"),
    "helm": GoTool("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "actionlint": GoTool("github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12"),
    "kubectl-validate": GoTool("sigs.k8s.io/kubectl-validate", "v0.0.4"),
    "kube-score": GoTool("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0"),
    "promtool": GoTool("github.com/prometheus/prometheus/cmd/promtool", "v0.316.0"),
}
GO_FLAGS = "-buildvcs=false -tags=remove_all_sd"
"""Without promtool's clients of every cloud, which checks of rules do not need and which take minutes to build."""
KUBERNETES = "k8s.io/kubernetes@v1.37.2"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


@functools.cache
def tool(name: str) -> str:
    """Return a tool's path; skip the test with the reason if it is unavailable."""
    if found := shutil.which(name):
        return found
    if name not in GO_TOOLS:
        pytest.skip(f"NOT CHECKED: there is no {name} on this machine")
    package, version = GO_TOOLS[name]
    path = TOOLS / f"{name}-{version}"
    if not path.exists():
        if shutil.which("go") is None:
            pytest.skip(f"NOT CHECKED: there is neither {name} nor a Go to build it with")
        with tempfile.TemporaryDirectory() as directory:
            # As a dependency of nothing: `go install` refuses a module whose go.mod excludes or replaces others.
            for step in (["mod", "init", "tools"], ["get", f"{package}@{version}"], ["build", "-o", path, package]):
                done = subprocess.run(
                    ["go", *step],
                    cwd=directory,
                    env=os.environ | {"GOFLAGS": GO_FLAGS},
                    capture_output=True,
                    text=True,
                    timeout=BUILD_SECONDS,
                    check=False,
                )
                if done.returncode:
                    pytest.skip(f"NOT CHECKED: {name} could not be built: {done.stderr.strip().splitlines()[-1]}")
    return str(path)


@functools.cache
def kubernetes_schemas() -> Path:
    """Return a folder with what the API server of KUBERNETES publishes of its types, laid out for kubectl-validate."""
    folder = TOOLS / f"openapi-{KUBERNETES.rpartition('@')[2]}"
    if not folder.exists():
        for path in (_module(KUBERNETES) / "api" / "openapi-spec" / "v3").glob("*__v*_openapi.json"):
            # apis__apps__v1_openapi.json is the schema of apis/apps/v1
            target = folder / (path.name.removesuffix("_openapi.json").replace("__", "/") + ".json")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder


@functools.cache
def prometheus_operator_crds() -> Path:
    """Return a folder with the definitions of ServiceMonitor and PrometheusRule, as their operator publishes them."""
    folder = TOOLS / f"crds-{PROMETHEUS_OPERATOR.rpartition('@')[2]}"
    if not folder.exists():
        source = _module(PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
        folder.mkdir(parents=True)
        for name in ("servicemonitors", "prometheusrules"):
            shutil.copyfile(source / f"monitoring.coreos.com_{name}.yaml", folder / f"{name}.yaml")
    return folder


def _module(module: str) -> Path:
    """Return where Go keeps a module's files, fetched from its proxy if needed; skip the test if it is unavailable."""
    if shutil.which("go") is None:
        pytest.skip(f"NOT CHECKED: no Go to get {module} with")
    got = subprocess.run(
        ["go", "mod", "download", "-json", module],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if got.returncode:
        pytest.skip(f"NOT CHECKED: {module} is unavailable")
    return Path(json.loads(got.stdout)["Dir"])


def run(*command: str | Path, data: str | None = None, cwd: Path = ROOT) -> str:
    """Run a tool and return what it prints; fail with all its words when it finds something wrong."""
    done = subprocess.run(command, input=data, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout
