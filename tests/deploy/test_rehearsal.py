"""The image without a container engine: the Dockerfile's instructions, run one by one in a root directory of their own.

Python, a shell and the C library of the base image are this machine's, bind-mounted; everything else is created as the
Dockerfile says, at its paths, and then run as its user on a read-only root. Needs root and mount namespaces.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.external_tools import ROOT
from tests.deploy.files.test_image import instructions
from tests.support.daemon import wait_for

ENTER = """set -e
where() { PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "$1"; }
root=$1 kept=$2 ways=$3; shift 3
mount --bind "$root" "$root"
for way in $ways; do
  if [ -L "$way" ]; then [ -L "$root$way" ] || ln -s "$(readlink "$way")" "$root$way"
  else mkdir -p "$root$way"; mount --rbind "$way" "$root$way"; fi
done
if [ "$kept" ]; then
  mount --bind "$root$kept" "$root$kept"; mount -o remount,bind,ro "$root"; "$(where ip)" link set lo up
fi
exec "$(where chroot)" "$@"
"""
"""Makes a root out of $root and what the machine lends; with $kept only that folder can be written to."""
LENT = ("/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/dev", sys.base_prefix, sys.prefix)
TOOLS = "pip install --require-hashes --only-binary=:all: --requirement tests/requirements.lock"
"""Has been run for the environment of the tests already."""
WITHOUT_PIP = "rm -rf /usr/local/bin/pip*"
"""Begins the instruction that removes the base image's pip: never run here, where /usr is this machine's own."""
DELIVER = """import sys, urllib.request as r
q = r.Request("http://127.0.0.1:8080/webhooks/gumlet", b'{"type": "a"}', {"x-gumlet-token": "dev"})
sys.exit(r.urlopen(q, timeout=10).status != 200)"""


class Image(NamedTuple):
    """What the Dockerfile makes: the root file system, and the words of its last stage."""

    root: Path
    words: dict[str, str]
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """Run a command as an engine would: the user, the read-only root, the volume, a network of its own."""
        given = {"BRIDGE_TOKENS": "dev", "BRIDGE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
        enter = ["unshare", "--mount", "--net", "sh", "-c", ENTER, "sh", str(self.root), self.words["VOLUME"]]
        return subprocess.Popen(
            [*enter, " ".join(LENT), f"--userspec={self.words['USER']}", str(self.root), *command],
            env=self.environment | given | {"BRIDGE_JOURNAL_MIN_FREE_BYTES": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def inside(self, pid: int, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the namespaces of a running one, as its user."""
        user, group = self.words["USER"].split(":")
        enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--root", f"--setuid={user}", f"--setgid={group}"]
        return subprocess.run(
            [*enter, "--", *command], env=self.environment, capture_output=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Follow the Dockerfile."""
    if (
        os.getuid()
        or subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("NOT RUN: without an engine only root can test the image, in namespaces")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        root.parent.chmod(0o755)
        yield build(root)


def build(root: Path) -> Image:
    """Follow the Dockerfile: both stages on one root, since the second takes over no more than its COPY names."""
    # pip's own settings, the machine's proxies and certificates
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BRIDGE_", "PYTHON", "VIRTUAL_"))}
    environment, words, where, stages = kept | {"TMPDIR": "/build"}, {"": ""}, "/", 0
    (root / "build").mkdir()
    for word, rest in instructions():
        words[word] = rest.strip()
        if word == "FROM":
            stages += 1
            lent = sysconfig.get_path("scripts") if stages == 1 else f"{sys.base_prefix}/bin"
            environment = environment if stages == 1 else {}
            environment["PATH"] = f"{lent}:/usr/bin:/bin"
        elif word == "ENV":
            for each in shlex.split(rest):
                variable, _, value = each.partition("=")
                environment[variable] = value.replace("$PATH", environment["PATH"])
        elif word == "WORKDIR":
            where = rest
            (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and not rest.startswith("--from=build"):
            *sources, target = shlex.split(rest)
            for source in sources:
                copy(ROOT / source, root / where.lstrip("/") / target)
        elif word == "RUN" and rest != TOOLS and not rest.startswith(WITHOUT_PIP):
            enter = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(root), "", " ".join(LENT), str(root)]
            done = subprocess.run(
                [*enter, "/bin/sh", "-c", f"cd {where} && {rest}"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"
    for each in ("build", "src", "wheel"):  # they stay in the stage that is thrown away
        shutil.rmtree(root / each)
    return Image(root, words, environment)


def copy(source: Path, target: Path) -> None:
    """Copy a file into a folder, or the content of a folder, as COPY does."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_image_takes_a_delivery_and_stops_when_asked(image: Image) -> None:
    """As its user, on a read-only root: healthy by its own check, 200 to a delivery, an end in order at STOPSIGNAL."""
    command = [*json.loads(image.words["ENTRYPOINT"]), *json.loads(image.words["CMD"])]
    probe = json.loads(image.words["HEALTHCHECK"].partition("CMD ")[2])
    with image.run(*command) as process:
        try:
            wait_for(lambda: process.poll() is not None or image.inside(process.pid, *probe).returncode == 0)
            assert process.poll() is None, process.communicate()[0].decode()
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert f"Uid:\t{image.words['USER'].split(':')[0]}\t" in status
            assert image.inside(process.pid, "touch", "/written").returncode != 0
            delivered = image.inside(process.pid, "python", "-c", DELIVER)
            assert delivered.returncode == 0, delivered.stderr.decode()
            process.send_signal(getattr(signal, image.words["STOPSIGNAL"]))
            output = process.communicate(timeout=60)[0].decode()
            assert process.returncode == 0, output
        finally:
            process.kill()
    (line,) = [json.loads(each) for each in output.splitlines() if '"drain_incomplete"' in each]
    assert line["remaining"] == 1
    owners = {path.stat().st_uid for path in (image.root / "var/lib/bridge").iterdir()}
    assert owners == {int(image.words["USER"].split(":")[0])}


def test_image_has_traces_and_no_installer(image: Image) -> None:
    """Spans can be switched on by variables alone; nothing in the image installs or builds anything."""
    libraries = "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter, bridge, sys\n"
    with image.run("python", "-c", libraries + "assert 'pip' not in sys.modules") as process:
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0, output
    assert not list((image.root / "opt/bridge/bin").glob("pip*"))


def test_image_has_its_bytecode(image: Image) -> None:
    """The bytecode that cannot be written at run time is in the image: a start compiles nothing."""
    folder = next((image.root / "opt/bridge/lib").glob("python*/site-packages"))
    for package in ("bridge", "aiohttp", "aiokafka"):
        modules = list((folder / package).rglob("*.py"))
        assert modules
        compiled = {each.name.partition(".")[0] for each in (folder / package).rglob("__pycache__/*.pyc")}
        assert {each.stem for each in modules} <= compiled
