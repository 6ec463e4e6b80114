"""How often an event comes again: a small memory of ids, for a figure, never for a decision.

An id is remembered until another one takes its place, and which place that is depends on nothing but the id. So after
90,000 other events half of the ids are still known, after 14,000 nine of ten. It costs 1 MiB and, measured on a busy
machine, a quarter of a microsecond an event; it ends with the process. No event is dropped because of it: two
identical bodies can be two real events.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

SLOTS = 2**17
"""Places for an id, 8 bytes each."""


class DuplicateCounter:
    """Recognizes ids that were seen before."""

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * SLOTS))

    def among(self, ids: Iterable[str]) -> int:
        """Return how many of `ids` were seen before, among them one that comes twice, and remember them all."""
        slots, repeats = self._slots, 0
        for each in map(hash, ids):  # 64 bits of a hash that is keyed anew in each process: nobody can aim at a place
            place = each & (SLOTS - 1)
            if slots[place] == each:
                repeats += 1
            else:
                slots[place] = each
        return repeats
