"""The steps of the rehearsal, in their order: each is run on the cluster that the one before has left.

A step is a function that raises RehearsalError (or AssertionError) when something is wrong, and otherwise returns what
was shown. STEPS has each with the name of its row in the table of deploy/kubernetes/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.deploy.external_tools import ROOT, resource_definitions
from tests.deploy.kubernetes.rehearsal import Rehearsal

OVERLAYS = "deploy/kubernetes/overlays"
CHART = "deploy/helm/gumlet-kafka-bridge"
NOT_RUN = ("Helm", "Strimzi", "change of mode", "end of the old mode", "user of topics", "topics")
"""The command blocks that no step runs yet."""


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


def documents(run: Rehearsal) -> str:
    """Find that every command for a cluster in the document was run, except those that no step runs yet."""
    unused = set(run.guide.unused)
    assert unused == {run.block(name) for name in NOT_RUN}, "not run:\n" + "\n\n".join(unused)
    count = len(run.guide.commands) - len(NOT_RUN)
    return f"{count} blocks run literally; not run yet: {', '.join(NOT_RUN)}"


STEPS: tuple[tuple[str, Callable[[Rehearsal], str]], ...] = (
    ("Install with `overlays/journal`", install),
    ("Apply it again", apply_again),
    ("Scale 2 → 6 → 2", scale),
    ("Roll out", roll_out),
    ("Evict pods", evict),
    ("Drain an orphaned volume", drain),
    ("The other `journal` overlays", overlays),
    ("Reconcile by hand", reconcile),
    ("Command blocks of this document", documents),
)
