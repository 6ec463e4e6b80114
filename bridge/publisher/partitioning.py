"""Chooses the partition of a record as Kafka's own clients do: murmur2 of the key, modulo the number of partitions."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2

CACHED_KEYS = 65_536
MAX_CACHED_KEY_BYTES = 64
"""A longer key is hashed each time: senders choose the keys, and the cache must not grow with what they send."""

_cached_murmur2 = lru_cache(maxsize=CACHED_KEYS)(murmur2)


def choose_partition(key: bytes, count: int) -> int:
    """Return the partition of a key among `count`."""
    number: int = _cached_murmur2(key) if len(key) <= MAX_CACHED_KEY_BYTES else murmur2(key)
    return (number & 0x7FFFFFFF) % count
