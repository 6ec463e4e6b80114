"""The import contracts are broken by an import in the wrong direction."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("queue/interface.py", "import bridge.publisher.publisher", "Each package imports only packages below it"),
        ("ingress/tokens.py", "import bridge.operations.gumlet_api", "Production code imports no operator"),
        ("telemetry/metrics.py", "import bridge.kafka.client", "Nothing before the queue knows"),
        ("cli/tail.py", "import bridge.cli.serve", "No command imports another command"),
    ],
)
def test_an_import_in_the_wrong_direction_breaks_its_contract(
    tmp_path: Path, module: str, statement: str, contract: str
) -> None:
    """A copy of the package with one more import is checked."""
    shutil.copytree(ROOT / "bridge", tmp_path / "bridge")
    with (tmp_path / "bridge" / module).open("a") as file:
        file.write(f"\n{statement}\n")
    checked = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache", ROOT / "tests/checks/imports.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    (verdict,) = [line for line in checked.stdout.splitlines() if line.startswith(contract) and "BROKEN" in line]
    assert verdict
