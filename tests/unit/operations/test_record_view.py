"""One line about an event or a dead letter."""

from __future__ import annotations

from base64 import b64encode

import pytest

from bridge.operations.record_view import describe_dead_letter, summarize


def test_summary_has_status_progress_title_and_problems() -> None:
    """The summary names what an operator looks for first, and skips what is absent."""
    event = {"status": "errored", "progress_percent": 20, "title": "A", "error": {"code": "ERR_INPUT"}}
    assert summarize(event) == "errored  20%  A  ERR_INPUT"
    assert summarize({"status": "ready", "warnings": [{"message": "low"}, "odd"]}) == "ready  low"
    assert summarize({}) == ""


def test_text_body_shows_its_beginning() -> None:
    """A dead letter for a body that is not JSON says how the body begins, whatever the parser reported."""
    letter = {"reason": "invalid_json", "detail": "unexpected character: line 1", "received_at": "x"}
    body = b"<html><body>502 Bad Gateway, the server is down</body>"
    expected = "invalid_json: the body is not JSON: it begins with '<html><body>502 Bad Gateway, the server …'"
    assert describe_dead_letter(letter, body) == expected
    assert summarize(letter | {"body_base64": b64encode(body).decode()}) == expected
    assert describe_dead_letter(letter, b" ") == "invalid_json: the body is empty"


@pytest.mark.parametrize(
    ("reason", "detail", "shown"),
    [
        ("record_too_large", "The record is too large.", "record_too_large"),
        ("not_an_object", "the body is JSON, but not an object", "not_an_object: the body is JSON, but not an object"),
        ("internal_error", "", "internal_error"),
    ],
)
def test_detail_that_repeats_the_reason_is_left_out(reason: str, detail: str, shown: str) -> None:
    """Only a detail that adds to the reason is shown."""
    assert describe_dead_letter({"reason": reason, "detail": detail}, b"{}") == shown


def test_pointer_is_named() -> None:
    """A schema violation says where in the body it is."""
    letter = {"reason": "schema_violation", "detail": "must be a string", "pointer": "/title"}
    assert describe_dead_letter(letter, b"{}") == "schema_violation at /title: must be a string"
