"""Fixtures of the ingress' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.public_port import Port, public_port


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    """Run a public port with short time limits."""
    async with public_port() as running:
        yield running
