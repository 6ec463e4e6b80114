"""The sizing page's arithmetic follows from the figures that it says were measured."""

from __future__ import annotations

import re

from tests.deploy.tools import DEPLOY

GIB = 1024**3
SECONDS = {"minutes": 60, "hours": 3600, "days": 86400, "years": 365.25 * 86400}


def test_outages_that_volumes_cover_are_computed_from_the_bytes_of_an_event() -> None:
    """When somebody measures again, the table is computed again."""
    text = (DEPLOY / "SIZING.md").read_text()
    per_event = int(re.findall(r"in the journal, file and all \| ([\d,]+)", text)[0].replace(",", ""))
    rows = re.findall(r"^\| (\d+) GiB[^|]*\|(.+)\|$", text, re.MULTILINE)
    assert len(rows) == 3
    for gibibytes, cells in rows:
        for rate, cell in zip((1, 100, 2500), cells.split("|"), strict=True):
            amount, unit = cell.split()
            told = float(amount) * SECONDS[unit]
            assert abs(told - int(gibibytes) * GIB / per_event / rate) < 0.02 * told
