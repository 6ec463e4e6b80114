"""The systemd unit, by systemd's own tools."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.deploy.external_tools import DEPLOY, run, tool
from tests.deploy.files.test_image import known_variables

UNIT = DEPLOY / "systemd" / "bridge@.service"
EXPOSED_AT_MOST = 20
"""In tenths, as systemd counts it: 0 is a unit that can do nothing, 100 one that can do all."""


def test_unit_is_understood(tmp_path: Path) -> None:
    """No directive is misspelt or in the wrong section, which systemd would only log."""
    unit = tmp_path / "bridge@1.service"
    program = shutil.which("true")
    unit.write_text(UNIT.read_text().replace("/opt/bridge/bin/gumlet-bridge", str(program)))
    analyze = tool("systemd-analyze")
    said = run("sh", "-c", f"{analyze} verify --man=no --recursive-errors=no {unit} 2>&1")
    assert [line for line in said.splitlines() if "bridge@1.service" in line] == []


def test_unit_is_hardened() -> None:
    """What the daemon never does, it may not do: systemd's own measure of exposure stays low."""
    run(tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSED_AT_MOST}", "--no-pager", UNIT)


def test_unit_names_only_settings_that_exist() -> None:
    """A misspelt variable would silently change nothing."""
    assert set(re.findall(r"BRIDGE_[A-Z_]+", UNIT.read_text())) <= known_variables()


def test_instances_share_a_port_and_nothing_else() -> None:
    """Each has a journal and an admin port of its own: a second process on one journal would not start."""
    text = UNIT.read_text()
    assert "BRIDGE_REUSE_PORT=true" in text
    assert re.search(r"BRIDGE_JOURNAL_DIR=\S+/%i$", text, re.MULTILINE)
    assert re.search(r"BRIDGE_ADMIN_LISTEN=\S+%i$", text, re.MULTILINE)
    grace = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert grace is not None
    assert int(grace[1]) >= 2 * 25
