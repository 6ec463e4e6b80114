"""The partition of a key, and what its cache may hold."""

from __future__ import annotations

import tracemalloc

import pytest
from aiokafka.partitioner import DefaultPartitioner

from bridge.publisher.sending import choose_partition


@pytest.mark.parametrize("key", [b"", b"a", b"5fd088e0a47da8246f1fb756", b"x" * 65, "ключ".encode()])
def test_partition_is_that_of_kafkas_clients(key: bytes) -> None:
    """The same key has the same partition as with the clients' default partitioner."""
    assert choose_partition(key, 7) == DefaultPartitioner()(key, list(range(7)), [])


def test_long_keys_are_not_cached() -> None:
    """Memory does not grow with the keys that a sender makes up."""
    tracemalloc.start()
    try:
        for number in range(200):
            choose_partition(b"%4d" % number + b"x" * 600, 3)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
