"""Fixtures of the contract's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bridge.contract.schemas import schemas_directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a copy of the contract's directory, to be changed."""
    return Path(shutil.copytree(schemas_directory(), tmp_path / "schemas"))
