"""Tools that judge what is in deploy/, taken from the machine, or from Go's module proxy once into .cache/tools.

A tool that cannot be had skips the checks that need it, by name: pytest's summary then says what was not checked.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".cache" / "tools"
BUILD_SECONDS = 900


class GoTool(NamedTuple):
    """A command that Go builds: its package, its pinned version, and what the build calls the file."""

    package: str
    version: str
    built_as: str


GO_TOOLS = {
    # What `docker compose` reads files with, without the engine.
    "compose-spec": GoTool("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2", "cmd"),
    "kubectl-validate": GoTool("sigs.k8s.io/kubectl-validate", "v0.0.4", "kubectl-validate"),
    "kube-score": GoTool("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0", "kube-score"),
}
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


@functools.cache
def tool(name: str) -> str:
    """Return a tool's path; skip the test that asked, with the reason, when it cannot be had."""
    if found := shutil.which(name):
        return found
    if name not in GO_TOOLS:
        pytest.skip(f"NOT CHECKED: there is no {name} on this machine")
    package, version, built_as = GO_TOOLS[name]
    path = TOOLS / f"{name}-{version}"
    if not path.exists():
        if shutil.which("go") is None:
            pytest.skip(f"NOT CHECKED: there is neither {name} nor a Go to build it with")
        building = TOOLS / f"building-{name}"
        built = subprocess.run(
            ["go", "install", f"{package}@{version}"],
            env=os.environ | {"GOBIN": str(building), "GOFLAGS": "-buildvcs=false"},
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if built.returncode:
            pytest.skip(f"NOT CHECKED: {name} could not be built: {built.stderr.strip().splitlines()[-1]}")
        (building / built_as).replace(path)
        building.rmdir()
    return str(path)


@functools.cache
def prometheus_operator_crds() -> Path:
    """Return a folder with the definitions of ServiceMonitor and PrometheusRule, as their operator publishes them."""
    folder = TOOLS / f"crds-{PROMETHEUS_OPERATOR.rpartition('@')[2]}"
    if not folder.exists():
        if shutil.which("go") is None:
            pytest.skip("NOT CHECKED: no Go to get the definitions of the Prometheus operator with")
        got = subprocess.run(
            ["go", "mod", "download", "-json", PROMETHEUS_OPERATOR],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if got.returncode:
            pytest.skip("NOT CHECKED: the definitions of the Prometheus operator could not be had")
        source = Path(json.loads(got.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
        folder.mkdir(parents=True)
        for name in ("servicemonitors", "prometheusrules"):
            shutil.copyfile(source / f"monitoring.coreos.com_{name}.yaml", folder / f"{name}.yaml")
    return folder


def run(*command: str | Path, data: str | None = None, cwd: Path = ROOT) -> str:
    """Run a tool and return what it prints; fail with all its words when it finds something wrong."""
    done = subprocess.run(command, input=data, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout
