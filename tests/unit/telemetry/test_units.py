"""Texts for people: durations, sizes, lists of names."""

from __future__ import annotations

import pytest

from bridge.telemetry.units import format_bytes, format_span, join_names


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (903_336, "882.2 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5e12, "4.5 TiB"),
    ],
)
def test_a_size_is_never_rounded_to_nothing(count: float, text: str) -> None:
    """A journal of less than a mebibyte is not 0 MiB."""
    assert format_bytes(count) == text


def test_a_duration_has_the_unit_that_fits() -> None:
    """From seconds to days; below two of a unit the smaller one is more exact."""
    assert [format_span(each) for each in (59.6, 119, 120, 7199, 7200, 172_800)] == [
        "60 seconds",
        "119 seconds",
        "2 minutes",
        "120 minutes",
        "2 hours",
        "2 days",
    ]


def test_a_long_list_of_names_ends_with_the_number_of_the_others() -> None:
    """Thirty topics fit in one line."""
    assert join_names(["a", "b", "c"]) == "a, b, c"
    assert join_names([str(each) for each in range(30)]) == "0, 1, 2 and 27 more"
