"""What the steps of the rehearsal share: the cluster, the document whose commands are run, and applying a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.deploy.external_tools import DEPLOY
from tests.deploy.kubernetes.control_plane import ControlPlane, RehearsalError
from tests.deploy.kubernetes.document import Document

README = DEPLOY / "kubernetes" / "README.md"
SPECIFIED = "statefulset,deployment,service,configmap,networkpolicy,horizontalpodautoscaler,poddisruptionbudget,pvc"
ALWAYS_CONFIGURED = "poddisruptionbudget.policy/bridge configured"
"""kubectl sends a budget's selector each time, because the API marks it to be replaced; the server changes nothing."""
BUDGET_GENERATION = "kubectl -n gumlet get poddisruptionbudget/bridge -o jsonpath={.metadata.generation}"
BLOCKS = {
    "install": "secret generic bridge-tokens",
    "orphaned volumes": "get pvc,pod",
    "drain": "drain.example.yaml",
    "reconcile": "reconcile-now",
    "user of topics": "generic bridge-topics",
    "topics": "job/bridge-topics",
    "change of mode": "overlays/ack-kafka",
    "end of the old mode": "delete statefulset/bridge",
    "Strimzi": "deploy/kubernetes/strimzi",
    "Helm": "helm install",
}
"""The command blocks of the documents, each by words that only it contains."""


class Rehearsal:
    """The cluster and the documents whose commands are run on it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.shell = plane.shell
        self.wait = plane.wait
        self.guide = Document(README)

    def block(self, name: str) -> str:
        """Return a command block of the document; it counts as run."""
        return self.guide.take(BLOCKS[name])

    def ready(self, kind: str, replicas: int = 2) -> None:
        """Wait until every replica is ready in its newest revision."""
        self.wait(f"kubectl -n gumlet get {kind}/bridge -o jsonpath={{.status.readyReplicas}}", str(replicas))
        self.shell(f"kubectl -n gumlet rollout status {kind}/bridge --timeout=120s")

    def apply(self, folder: str | Path) -> int:
        """Apply a kustomization, then again in three ways, none of which may change anything; return its objects."""
        self.shell(f"kubectl apply -k {folder}")
        lines = self.unchanged(folder)
        self.shell(f"kubectl apply --server-side -k {folder}")
        self.shell(f"kubectl diff --server-side -k {folder}")
        return lines

    def unchanged(self, folder: str | Path) -> int:
        """Find that applying a kustomization would change nothing, and does not; return the number of its objects."""
        self.shell(f"kubectl diff -k {folder}")
        generation = self.shell(BUDGET_GENERATION)
        lines = self.shell(f"kubectl apply -k {folder}").splitlines()
        changed = [line for line in lines if not line.endswith(" unchanged") and line != ALWAYS_CONFIGURED]
        if changed or self.shell(BUDGET_GENERATION) != generation:
            raise RehearsalError(f"kubectl apply -k {folder} again:\n" + "\n".join(changed))
        return len(lines)

    def specifications(self) -> dict[str, Any]:
        """Return what is asked for in the namespace, by kind and name, without what controllers report."""
        items = json.loads(self.shell(f"kubectl -n gumlet get {SPECIFIED} -o json"))["items"]
        return {
            f"{each['kind']}/{each['metadata']['name']}": {key: each.get(key) for key in ("spec", "data")}
            for each in items
        }

    def own_overlay(self, components: tuple[str, ...], patches: str = "") -> Path:
        """Write an overlay of a user's own on top of `journal`, in a copy of the folder; return its path."""
        copied = self.plane.directory / "kubernetes"
        if not copied.exists():
            shutil.copytree(DEPLOY / "kubernetes", copied)
        own = copied / "overlays" / f"own-{'-'.join(components)}"
        own.mkdir(exist_ok=True)
        listed = ", ".join(f"../../components/{name}" for name in components)
        (own / "kustomization.yaml").write_text(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: gumlet\n"
            f"resources: [../journal]\ncomponents: [{listed}]\n"
            "images: [{name: gumlet-kafka-bridge, newName: registry.example.com/gumlet-kafka-bridge, newTag: 0.1.0}]\n"
            f"{patches}"
        )
        return own
