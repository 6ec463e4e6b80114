"""The steps of the cluster test, in their order: each is run on the cluster that the one before has left.

A step is a function that raises RehearsalError (or AssertionError) when something is wrong, and otherwise returns what
was shown. STEPS has each with the name of its row in the table of deploy/kubernetes/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.deploy.external_tools import DEPLOY, ROOT, resource_definitions
from tests.deploy.kubernetes.programs import strimzi_definitions
from tests.deploy.kubernetes.rehearsal import Rehearsal

OVERLAYS = "deploy/kubernetes/overlays"
CHART = "deploy/helm/gumlet-kafka-bridge"
COMBINATIONS: tuple[tuple[str, ...], ...] = (
    ("ingress",),
    ("gateway",),
    ("monitoring",),
    ("topics", "kafka-scram"),
    ("topics", "reconcile", "kafka-mtls"),
    ("topics", "reconcile", "openshift"),
)
"""Components that are applied together: those that patch the objects of others come last."""
CHART_OPTIONS = (
    "--set=ack=kafka",
    "--set=ingress.enabled=true --set=gateway.enabled=true --set=monitoring.enabled=true",
    "--set=fixedIds=false --set=networkPolicies.enabled=false",
)


def install(run: Rehearsal) -> str:
    """Install by the document; two replicas become ready with a volume each, and no unrestricted pod is admitted."""
    run.shell(f"kubectl create -f {resource_definitions()}")
    run.shell(run.block("install"))
    run.ready("statefulset")
    volumes = run.shell("kubectl -n gumlet get pvc -o jsonpath={.items[*].status.phase}")
    assert volumes == "Bound Bound", volumes
    refused = run.shell("kubectl -n gumlet run unrestricted --image=registry.example.com/unrestricted", fails=True)
    assert 'violates PodSecurity "restricted' in refused, refused
    return "2 replicas ready, a claim each bound; an unrestricted pod is rejected"


def apply_again(run: Rehearsal) -> str:
    """Apply the same overlay again."""
    count = run.apply(f"{OVERLAYS}/journal")
    return f"{count} objects unchanged; `kubectl diff` empty; server-side apply has no conflict"


def scale(run: Rehearsal) -> str:
    """Let the autoscaler's bounds change the number of replicas from 2 to 6 and back."""
    bounds = "kubectl -n gumlet patch horizontalpodautoscaler/bridge -p"
    claims = "kubectl -n gumlet get pvc -o name | wc -l"
    run.shell(f"""{bounds} '{{"spec":{{"minReplicas":6}}}}'""")
    run.ready("statefulset", 6)
    assert run.shell(claims).strip() == "6"
    zones = run.shell("kubectl -n gumlet get pods -o jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(zones) == ["node-a", "node-a", "node-b", "node-b", "node-c", "node-c"], zones
    run.shell(f"""{bounds} '{{"spec":{{"minReplicas":2,"maxReplicas":2}}}}'""")
    run.wait("kubectl -n gumlet get pods -o name", "pod/bridge-0\npod/bridge-1")
    assert run.shell(claims).strip() == "6"
    run.shell(f"kubectl apply -k {OVERLAYS}/journal")
    return "6 replicas on 3 nodes, two each; then 2; the 6 claims are retained"


def roll_out(run: Rehearsal) -> str:
    """Restart all replicas; with no node for a new pod, the rollout stops at the first."""
    revision = "kubectl -n gumlet get statefulset/bridge -o jsonpath={.status.currentRevision}"
    before = run.shell(revision)
    run.shell("kubectl cordon node-a node-b node-c && kubectl -n gumlet rollout restart statefulset/bridge")
    run.wait("kubectl -n gumlet get pods --field-selector=status.phase=Pending -o name | wc -l", "1")
    run.wait("kubectl -n gumlet get statefulset/bridge -o jsonpath={.status.readyReplicas}", "1")
    run.shell("kubectl uncordon node-a node-b node-c")
    run.ready("statefulset")
    assert run.shell(revision) != before
    return "all replicas replaced, one at a time: while the first is pending, the second stays ready"


def evict(run: Rehearsal) -> str:
    """Evict two pods: the second must wait until the first is ready again."""

    def eviction(pod: str, *, fails: bool = False) -> str:
        content = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "gumlet"}}
        path = f"/api/v1/namespaces/gumlet/pods/{pod}/eviction"
        return run.shell(f"kubectl create --raw {path} -f -", data=json.dumps(content), fails=fails)

    allowed = "kubectl -n gumlet get poddisruptionbudget/bridge -o jsonpath={.status.disruptionsAllowed}"
    run.wait(allowed, "1")
    run.shell("kubectl cordon node-a node-b node-c")
    eviction("bridge-0")
    run.wait(allowed, "0")
    refused = eviction("bridge-1", fails=True)
    assert "disruption budget" in refused, refused
    run.shell("kubectl uncordon node-a node-b node-c")
    run.wait(allowed, "1")
    eviction("bridge-1")
    run.wait(allowed, "1")
    return "the first eviction is accepted, a second is rejected (429) until the first pod is ready again"


def drain(run: Rehearsal) -> str:
    """Run the drain Job by the document on an orphaned volume; then a Job that fails, and one on a volume in use."""
    listed = run.shell(run.block("orphaned volumes"))
    assert "journal-bridge-5" in listed, listed
    commands = run.block("drain")
    run.shell(commands)
    run.shell(commands.replace("N=5", "N=4"), fails=True)
    claims = run.shell("kubectl -n gumlet get pvc -o name")
    assert "journal-bridge-5" not in claims, claims
    assert "journal-bridge-4" in claims, claims
    run.shell("kubectl -n gumlet delete job/bridge-drain-4")
    run.shell("sed 's/-3$/-0/' deploy/kubernetes/drain.example.yaml | kubectl apply -f -")
    pod = "kubectl -n gumlet get pods -l app.kubernetes.io/name=gumlet-kafka-bridge-drain"
    run.wait(f"{pod} -o jsonpath={{.items[*].status.conditions[*].reason}}", "Unschedulable")
    reason = run.shell(f"{pod} -o jsonpath={{.items[*].status.conditions[*].message}}")
    assert "ReadWriteOncePod" in reason, reason
    run.shell("kubectl -n gumlet delete job/bridge-drain-0")
    return (
        "admitted, completed, Job and claim deleted; a failed Job ends the commands and keeps the claim; "
        "on the volume of a running replica the Job's pod stays pending"
    )


def overlays(run: Rehearsal) -> str:
    """Apply the other journal overlays."""
    names = sorted(path.name for path in (ROOT / OVERLAYS).iterdir())
    shown = []
    for name in [each for each in names if each not in ("journal", "ack-kafka")]:
        shown.append(f"`{name}` ({run.apply(f'{OVERLAYS}/{name}')} objects)")
        run.ready("statefulset")
    return f"{', '.join(shown)}: applied, again without a difference"


def reconcile(run: Rehearsal) -> str:
    """Run the reconciliation by hand as the document says."""
    run.shell(run.block("reconcile"), GUMLET_API_KEY="key")
    return "the Job of the suspended CronJob is admitted and completes"


def components(run: Rehearsal) -> str:
    """Apply each component in an overlay of a user's own, with the document's patches."""
    offered = {path.name for path in (DEPLOY / "kubernetes" / "components").iterdir()}
    assert offered == {name for names in COMBINATIONS for name in names}
    policy, release = run.guide.patches
    patches: dict[tuple[str, ...], str] = {("gateway",): policy, ("monitoring",): release}
    for names in COMBINATIONS:
        run.shell("kubectl -n gumlet delete job/bridge-topics --ignore-not-found")
        run.apply(run.own_overlay(names, patches.get(names, "")))
        run.ready("statefulset")
        if names == ("topics", "kafka-scram"):
            run.shell("kubectl -n gumlet delete job/bridge-topics")
            create_topics(run, run.own_overlay(names))
    listed = "; ".join(", ".join(f"`{name}`" for name in names) for names in COMBINATIONS)
    return f"{listed}: applied on top of `journal`, again without a difference; the Job of `topics` completes"


def create_topics(run: Rehearsal, folder: Path) -> None:
    """Run the topics Job by the document: its Secret, the overlay, and the wait for its end."""
    run.shell(run.block("user of topics"), KAFKA_PASSWORD="password")
    run.shell(f"kubectl apply -k {folder}")
    run.shell(run.block("topics"))


def acknowledge_from_kafka(run: Rehearsal) -> str:
    """Change from `journal` to `ack-kafka` by the document."""
    pending = run.shell(run.block("change of mode"))
    assert "deployment.apps/bridge created" in pending, pending
    run.ready("deployment")
    run.ready("statefulset")
    selector = "kubectl -n gumlet get service/bridge -o jsonpath={.spec.selector.gumlet-kafka-bridge/ack}"
    assert run.shell(selector) == "kafka"
    count = run.apply(f"{OVERLAYS}/ack-kafka")
    run.shell(run.block("end of the old mode"))
    assert "journal-bridge" not in run.shell("kubectl -n gumlet get pvc -o name")
    return f"{count} objects; both workloads run, the Service selects the Deployment; then the StatefulSet is deleted"


def strimzi(run: Rehearsal) -> str:
    """Apply the topics and users for Strimzi, judged by its own resource definitions."""
    for path in strimzi_definitions():
        run.shell(f"kubectl create -f {path}")
    run.shell("kubectl create namespace kafka")
    run.shell(run.block("Strimzi"))
    count = run.apply("deploy/kubernetes/strimzi")
    return f"{count} KafkaTopics and KafkaUsers valid by Strimzi's definitions, again without a difference"


def chart(run: Rehearsal) -> str:
    """Install the chart by the document, upgrade without a change, then with its options."""
    run.shell("kubectl delete namespace gumlet --timeout=120s")
    namespace, secret, _ = run.block("install").splitlines()
    run.shell(f"{namespace}\n{secret}\n{run.block('Helm')}")
    run.ready("statefulset")
    upgrade = f"helm upgrade bridge {CHART} --namespace gumlet --set image.repository=registry.example.com/bridge"
    run.shell(upgrade)
    run.ready("statefulset")
    before = run.specifications()
    run.shell(upgrade)
    assert run.specifications() == before
    run.shell(f"{upgrade} --set=topics.apply=true --wait")
    for options in CHART_OPTIONS:
        run.shell(f"{upgrade} {options}")
        run.ready("deployment" if "ack=kafka" in options else "statefulset")
    run.shell("helm uninstall bridge --namespace gumlet --wait")
    claims = run.shell("kubectl -n gumlet get pvc -o name")
    assert claims.count("journal-bridge-") == 2, claims
    return "installed; upgrade without a change changes nothing; every option applied; uninstalled, the claims remain"


def documents(run: Rehearsal) -> str:
    """Find that every command for a cluster in the document was run."""
    unused = run.guide.unused
    assert not unused, "not run:\n" + "\n\n".join(unused)
    return f"{len(run.guide.commands)} blocks, each run literally"


STEPS: tuple[tuple[str, Callable[[Rehearsal], str]], ...] = (
    ("Install with `overlays/journal`", install),
    ("Apply it again", apply_again),
    ("Scale 2 → 6 → 2", scale),
    ("Roll out", roll_out),
    ("Evict pods", evict),
    ("Drain an orphaned volume", drain),
    ("The other `journal` overlays", overlays),
    ("Reconcile by hand", reconcile),
    ("Components", components),
    ("From `journal` to `ack-kafka`", acknowledge_from_kafka),
    ("Strimzi", strimzi),
    ("Helm chart", chart),
    ("Command blocks of this document", documents),
)
