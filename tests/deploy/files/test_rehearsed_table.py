"""The table of the Kubernetes rehearsal and the commands in the documents belong to steps that the rehearsal runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.external_tools import DEPLOY
from tests.deploy.kubernetes.document import Document, rows
from tests.deploy.kubernetes.rehearsal import BLOCKS, README
from tests.deploy.kubernetes.steps import STEPS


def test_table_has_a_row_for_each_step() -> None:
    """A step that was added or renamed was not rehearsed yet."""
    assert rows(Document(README).table) == [name for name, _ in STEPS]


def test_every_command_block_is_run_by_a_step() -> None:
    """Each block has the words of exactly one entry: a new block needs a step that runs it."""
    found = [[name for name, words in BLOCKS.items() if words in each] for each in Document(README).commands]
    assert sorted(name for names in found for name in names) == sorted(BLOCKS)
    assert all(len(names) == 1 for names in found)


@pytest.mark.parametrize("path", sorted(set(DEPLOY.rglob("*.md")) - {README}), ids=lambda path: str(path.name))
def test_other_documents_have_no_commands_for_a_cluster(path: Path) -> None:
    """Commands for a cluster are in the document that is rehearsed."""
    assert Document(path).commands == ()
