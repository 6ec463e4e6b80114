"""The lock files: consistent with each other, and independent of the machine that wrote them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN, TEST, LOWEST = "requirements.lock", "tests/requirements.lock", "tests/lowest.lock"


def pins(lock: str) -> dict[str, str]:
    """Return the pinned version of each package, by name without extras."""
    lines = [line.split() for line in (ROOT / lock).read_text().splitlines() if "==" in line]
    return {name.partition("[")[0]: version for name, _, version in (line[0].partition("==") for line in lines)}


def test_tests_run_with_the_versions_that_ship() -> None:
    """Each version of the production lock is the version of the test lock."""
    shipped, tested = pins(RUN), pins(TEST)
    assert shipped
    assert {name: tested.get(name) for name in shipped} == shipped


@pytest.mark.parametrize("lock", [RUN, TEST, LOWEST])
def test_lock_names_no_registry(lock: str) -> None:
    """A lock file pins versions and hashes; the registry is the choice of the machine that installs."""
    assert "//" not in (ROOT / lock).read_text()


def test_lowest_lock_pins_the_lower_bounds() -> None:
    """`make test-lowest` installs the lower bound of each dependency in pyproject.toml, and each has an upper bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [bound for extra in project["optional-dependencies"].values() for bound in extra]
    bounds = [re.fullmatch(r"([a-z-]+)>=([\d.]+),<[\d.]+", bound) for bound in [*project["dependencies"], *extras]]
    lowest = pins(LOWEST)
    for bound in bounds:
        assert bound is not None
        assert re.sub(r"(\.0)+$", "", lowest[bound[1]]) == re.sub(r"(\.0)+$", "", bound[2])
