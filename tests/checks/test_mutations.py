"""The mutations of the journal's rules can still be applied."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.enumeration.mutations import MUTATIONS, ROOT


def test_every_mutation_still_applies(tmp_path: Path) -> None:
    """A patch whose text has changed is found here, not only by `make mutations`, and its test exists."""
    for number, mutation in enumerate(MUTATIONS):
        root = tmp_path / str(number)
        shutil.copytree(ROOT / "bridge/queue", root / "bridge/queue")
        mutation.apply(root)
        file, test = mutation.test.split("::")
        assert f"def {test}(" in (ROOT / "tests/unit/queue" / file).read_text()
