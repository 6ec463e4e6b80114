"""Daemons of the integration tests are forked, which makes their start cheap; tests/chaos starts them as users do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon


@pytest.fixture(scope="package", autouse=True)
def _forked_daemons() -> Iterator[None]:
    """Let `Daemon` and `Load` fork."""
    Daemon.forked = True
    yield
    Daemon.forked = False
