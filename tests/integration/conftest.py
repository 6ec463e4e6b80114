"""Daemons of the integration tests are forked, which makes their start cheap; tests/chaos starts them as users do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import fork_server
from tests.support.daemon import Daemon


@pytest.fixture(scope="package", autouse=True)
def _forked_daemons() -> Iterator[None]:
    """Let `Daemon` and `Load` fork, unless coverage is measured."""
    Daemon.forked = fork_server.usable()
    yield
    Daemon.forked = False
