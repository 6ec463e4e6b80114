"""One line about an event or a dead letter."""

from __future__ import annotations

import pytest

from bridge.operations.record_view import describe_dead_letter, summarize


def test_summary_has_status_progress_title_and_problems() -> None:
    """The summary names what an operator looks for first, and skips what is absent."""
    event = {"status": "errored", "progress_percent": 20, "title": "A", "error": {"code": "ERR_INPUT"}}
    assert summarize(event) == "errored  20%  A  ERR_INPUT"
    assert summarize({"status": "ready", "warnings": [{"message": "low"}, "odd"]}) == "ready  low"
    assert summarize({}) == ""


@pytest.mark.parametrize(
    ("letter", "shown"),
    [
        ({"reason": "not_an_object", "detail": "the body is JSON, but not an object"},
         "not_an_object: the body is JSON, but not an object"),
        ({"reason": "schema_violation", "detail": "must be a string", "pointer": "/title"},
         "schema_violation at /title: must be a string"),
        ({"reason": "internal_error"}, "internal_error"),
    ],
)  # fmt: skip
def test_dead_letter_is_its_reason_place_and_detail_as_recorded(letter: dict[str, str], shown: str) -> None:
    """Every view has the record's own sentence."""
    assert describe_dead_letter(letter) == shown
    assert summarize(letter | {"received_at": "x", "body_base64": "e30="}) == shown
