"""A Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, and nodes simulated by KWOK.

`ControlPlane` is a context manager. Its files are in the directory that the caller gives, its ports are chosen free,
and each process is ended by its own id, also after a failure. The API is a real one, with the default admission plugins
(Pod Security included); the nodes run no container: pods become ready at once, and the pods of Jobs complete.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import yaml

from tests.deploy.kubernetes.programs import simulated_stages
from tests.support.brokers.apache import free_port
from tests.support.journal import fill_journal

START_SECONDS = 180
STOP_SECONDS = 20
SHELL_SECONDS = 300
LOG_LINES = 15
NODES = Path(__file__).with_name("nodes.yaml")
VOLUMES = 40
VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "spec": {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteOncePod"],
        "storageClassName": "standard",
        "persistentVolumeReclaimPolicy": "Retain",
        "csi": {"driver": "rehearsal.example.com", "volumeHandle": "none"},
    },
}
"""A volume that the controller manager binds to a claim; nothing is stored on it."""


class RehearsalError(Exception):
    """A step of the rehearsal failed; the message has the command and its output."""


class ControlPlane:
    """The processes, and a kubectl that is an administrator of theirs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.kubeconfig = directory / "kubeconfig"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a shell finds the programs and the cluster; kubectl caches into the directory."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HELM_"))}
        path = f"{self.programs}:{os.environ['PATH']}"
        return kept | {"PATH": path, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}

    def logs(self) -> str:
        """Return the last lines of every process's log."""
        shown = []
        for name, process in self._processes.items():
            lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-LOG_LINES:]
            shown.append("\n".join([f"== {name} (exit code {process.poll()})", *lines]))
        return "\n".join(shown)

    def _start(self) -> None:
        etcd, peer, api, kubelet = (free_port() for _ in range(4))
        files = self._certificate()
        token = secrets.token_hex(16)
        (self.directory / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        self._write_kubeconfig(f"https://127.0.0.1:{api}", token)
        self._run(
            "etcd",
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        _wait_for_port(etcd, self)
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={api}",
            f"--tls-cert-file={files[0]}",
            f"--tls-private-key-file={files[1]}",
            f"--token-auth-file={self.directory}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files[1]}",
            f"--service-account-signing-key-file={files[1]}",
            f"--cert-dir={self.directory}/certificates",
        )
        self.wait("kubectl get --raw /readyz")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            "--use-service-account-credentials=false",
            f"--service-account-private-key-file={files[1]}",
            "--leader-elect=false",
            "--secure-port=0",
            "--horizontal-pod-autoscaler-sync-period=2s",
            "--controllers=*",
        )
        self._run("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        (self.directory / "kwok.yaml").write_text(self._kwok_configuration())
        self._run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={self.directory}/kwok.yaml",
            "--manage-all-nodes",
            "--node-ip=127.0.0.1",
            f"--node-port={kubelet}",
            f"--server-address=127.0.0.1:{kubelet}",
            f"--tls-cert-file={files[0]}",
            f"--tls-private-key-file={files[1]}",
            "--node-lease-duration-seconds=40",
        )
        self._create_nodes_and_volumes()

    def _certificate(self) -> tuple[Path, Path]:
        """Make the certificate of the servers, which is its own authority; its key also signs the accounts' tokens."""
        certificate, key = self.directory / "server.crt", self.directory / "server.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        command += ["-addext", names, "-out", str(certificate), "-keyout", str(key)]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    def _write_kubeconfig(self, server: str, token: str) -> None:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "rehearsal",
            "contexts": [{"name": "rehearsal", "context": {"cluster": "rehearsal", "user": "admin"}}],
            "clusters": [
                {
                    "name": "rehearsal",
                    "cluster": {"server": server, "certificate-authority": f"{self.directory}/server.crt"},
                }
            ],
            "users": [{"name": "admin", "user": {"token": token}}],
        }
        self.kubeconfig.write_text(json.dumps(content))
        self.kubeconfig.chmod(0o600)

    def _kwok_configuration(self) -> str:
        """Return KWOK's stages, and what stands in for containers.

        `kubectl logs` prints one line, and `kubectl exec` runs the command on this machine, on an empty journal.
        """
        (self.directory / "pod.log").write_text("2026-01-01T00:00:00Z stderr F simulated\n")
        fill_journal(self.directory / "journal", [])
        variables = {
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "BRIDGE_JOURNAL_DIR": f"{self.directory}/journal",
        }
        local = {"envs": [{"name": name, "value": value} for name, value in variables.items()]}
        specifications = {
            "ClusterLogs": {"logs": [{"logsFile": f"{self.directory}/pod.log"}]},
            "ClusterExec": {"execs": [{"local": local}]},
        }
        documents = [simulated_stages()]
        for kind, specification in specifications.items():
            content = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": {"name": "all"}}
            documents.append(json.dumps(content | {"spec": specification}))
        return "\n---\n".join(documents)

    def _create_nodes_and_volumes(self) -> None:
        """Create the nodes and the storage class, and enough volumes for every claim."""
        volumes = [VOLUME | {"metadata": {"name": f"volume-{number}"}} for number in range(VOLUMES)]
        items = [*yaml.safe_load_all(NODES.read_text()), *volumes]
        self.shell("kubectl create -f -", data=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        self.shell("kubectl wait --for=condition=Ready node --all --timeout=120s")

    def shell(self, script: str, *, data: str | None = None, fails: bool = False, **variables: str) -> str:
        """Run a script as pasted into a shell that stops at the first error, in the repository; return its output.

        Raises RehearsalError when it fails (or, with `fails`, when it does not), or when the API server warns.
        """
        done = subprocess.run(
            ["timeout", str(SHELL_SECONDS), "bash", "-euo", "pipefail", "-c", script],
            input=data,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        if bool(done.returncode) != fails:
            raise RehearsalError(f"exit code {done.returncode}:\n{script}\n{output}")
        if "Warning:" in output:
            raise RehearsalError(f"the API server warns:\n{script}\n{output}")
        return output

    def wait(self, script: str, expected: str = "", seconds: float = START_SECONDS) -> str:
        """Repeat a script until it succeeds and its output is what is expected (anything, if empty)."""
        deadline = time.monotonic() + seconds
        while True:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RehearsalError(f"{name} ended:\n{self.logs()}")
            try:
                output = self.shell(script)
                if not expected or output.strip() == expected:
                    return output
                error = RehearsalError(f"expected {expected!r}:\n{script}\n{output}")
            except RehearsalError as failure:
                error = failure
            if time.monotonic() > deadline:
                raise RehearsalError(f"after {seconds:.0f} s: {error}")
            time.sleep(0.3)

    def _run(self, name: str, *arguments: str) -> None:
        log = self._stack.enter_context((self.directory / f"{name}.log").open("wb"))
        self._processes[name] = subprocess.Popen(
            [self.programs / name, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _stop(self) -> None:
        """End the processes in the reverse order of their start, by their ids."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._stack.close()


def _wait_for_port(port: int, plane: ControlPlane) -> None:
    """Wait until a process listens on a port."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise RehearsalError(f"nothing listens on port {port}:\n{plane.logs()}")
        time.sleep(0.1)
