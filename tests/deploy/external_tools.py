"""Tools that check what is in deploy/, taken from the machine, or from Go's module proxy once into .cache/tools.

`build` and `module_files` raise ToolUnavailableError. `tool` and the functions for schemas skip the test instead:
pytest's summary then lists what was not checked.
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
BUILD_SECONDS = 3600


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
    "etcd": GoTool("go.etcd.io/etcd/server/v3", "v3.6.16"),
    "kwok": GoTool("sigs.k8s.io/kwok/cmd/kwok", "v0.8.0"),
    "promtool": GoTool("github.com/prometheus/prometheus/cmd/promtool", "v0.316.0"),
}
GO_FLAGS = "-buildvcs=false -tags=remove_all_sd"
"""Without promtool's clients of every cloud, which checks of rules do not need and which take minutes to build."""
KUBERNETES = "k8s.io/kubernetes@v1.37.2"
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.3"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


class ToolUnavailableError(Exception):
    """A tool or a module is neither on this machine nor available from its registry; the message has the reason."""


def build(name: str) -> str:
    """Return a tool's path: on this machine, in the cache, or built now."""
    if found := shutil.which(name):
        return found
    if name not in GO_TOOLS:
        raise ToolUnavailableError(f"there is no {name} on this machine")
    package, version = GO_TOOLS[name]
    path = TOOLS / f"{name}-{version}"
    if not path.exists():
        print(f"building {name} {version} (once)", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            # As a dependency of nothing: `go install` refuses a module whose go.mod excludes or replaces others.
            for step in (["mod", "init", "tools"], ["get", f"{package}@{version}"], ["build", "-o", path, package]):
                go(*step, cwd=Path(directory), GOFLAGS=GO_FLAGS)
    return str(path)


def go(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run Go and return its output; raise ToolUnavailableError with its last line when it fails."""
    if shutil.which("go") is None:
        raise ToolUnavailableError("Go is not installed")
    command = ["go", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ToolUnavailableError(f"{' '.join(command)}: {reason}")
    return done.stdout


@functools.cache
def tool(name: str) -> str:
    """Return a tool's path; skip the test with the reason if it is unavailable."""
    try:
        return build(name)
    except ToolUnavailableError as error:
        pytest.skip(f"NOT CHECKED: {error}")


@functools.cache
def schemas() -> tuple[str | Path, ...]:
    """Return kubectl-validate's options: where the schemas are. Skip the test if they are unavailable."""
    try:
        return "--local-schemas", kubernetes_schemas(), "--local-crds", resource_definitions()
    except ToolUnavailableError as error:
        pytest.skip(f"NOT CHECKED: {error}")


def kubernetes_schemas() -> Path:
    """Return a folder with what the API server of KUBERNETES publishes of its types, laid out for kubectl-validate."""
    folder = TOOLS / f"openapi-{KUBERNETES.rpartition('@')[2]}"
    if not folder.exists():
        for path in (module_files(KUBERNETES) / "api" / "openapi-spec" / "v3").glob("*__v*_openapi.json"):
            # apis__apps__v1_openapi.json is the schema of apis/apps/v1
            target = folder / (path.name.removesuffix("_openapi.json").replace("__", "/") + ".json")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder


def resource_definitions() -> Path:
    """Return a folder with the definitions of the resources of the Gateway API and of the Prometheus operator."""
    folder = TOOLS / f"definitions-{GATEWAY_API.rpartition('@')[2]}-{PROMETHEUS_OPERATOR.rpartition('@')[2]}"
    if not folder.exists():
        gateway = module_files(GATEWAY_API) / "config" / "crd" / "standard"
        prometheus = module_files(PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
        folder.mkdir(parents=True)
        for kind in ("gateways", "httproutes"):
            shutil.copyfile(gateway / f"gateway.networking.k8s.io_{kind}.yaml", folder / f"{kind}.yaml")
        for kind in ("servicemonitors", "prometheusrules"):
            shutil.copyfile(prometheus / f"monitoring.coreos.com_{kind}.yaml", folder / f"{kind}.yaml")
    return folder


def module_files(module: str) -> Path:
    """Return where Go keeps a module's files, fetched from its proxy if needed."""
    return Path(json.loads(go("mod", "download", "-json", module, cwd=Path("/")))["Dir"])


def run(*command: str | Path, data: str | None = None, cwd: Path = ROOT) -> str:
    """Run a tool and return what it prints; fail with all its words when it finds something wrong."""
    done = subprocess.run(command, input=data, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout
