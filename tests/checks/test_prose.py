"""The prose check finds each banned word in prose and leaves code and normal technical English alone."""

from __future__ import annotations

import pytest

from tests.checks.prose import banned_words, findings


@pytest.mark.parametrize(
    "line",
    [
        "# Nobody is told.",
        '"""Tell the operator."""',
        'raise ValueError("the body is no JSON")',
        'log.warning("retried without end")',
        '"""Publish what waits."""',
        'f"{topic}: fix it and begin anew"',
    ],
)
def test_banned_words_in_comments_docstrings_and_messages_are_reported(line: str) -> None:
    """Each kind of prose in Python is read."""
    assert findings("module.py", line)


@pytest.mark.parametrize("name", ["README.md", "rules.yaml", "schema.json"])
def test_banned_words_in_other_files_are_reported_with_a_suggestion(name: str) -> None:
    """Documents and descriptions are read line by line."""
    assert findings(name, "\nKafka is away.") == [f'{name}:2: "is away": unavailable, disconnected']


@pytest.mark.parametrize(
    "text",
    [
        "There is no default. It is no longer supported. The queue is not empty.",
        "The consumer starts at the beginning; the timeout begins with the first byte. The lifetime of a token.",
        "Run `tell` as before; recommended and amended values; see https://example.com/told.",
        "All deliveries are written at once. A newsletter. Considerations besides the size.",
    ],
)
def test_normal_technical_english_is_not_reported(text: str) -> None:
    """Words that contain a banned word, code and standard phrases pass."""
    assert findings("README.md", text) == []


def test_identifiers_and_single_words_in_python_are_not_reported() -> None:
    """Names and data are no prose."""
    assert findings("module.py", 'told = {"told": tell(beside)}') == []


def test_every_banned_word_has_a_suggestion() -> None:
    """A finding without advice helps no one."""
    assert all(advice for _, advice in banned_words())
