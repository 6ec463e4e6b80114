"""What commands print: safe on a terminal, whole words, and messages instead of empty output."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import typer

from bridge.cli import output
from bridge.errors import BridgeError
from bridge.telemetry.logging import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ESCAPES = "\x1b[2J\x1b]0;owned\x07"
BIDIRECTIONAL = "\u202egpj.exe\u2066"
HOSTILE = f"a{ESCAPES}\r\n{BIDIRECTIONAL}\x9b31m\x7f\u200b\ue000"
ROW = {"asset_id": "5fd088e0a47da8246f1fb756", "type": "video.status.ready", "reason": "not delivered in the last day"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Make standard output a terminal of 80 columns; return what reads the output so far."""
    monkeypatch.setattr(output, "is_piped", lambda: False)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda: capsys.readouterr().out


def controls(text: str) -> set[str]:
    """Return the characters of a text that could control a terminal or change the reading order."""
    return {char for char in text if not char.isprintable() and char != "\n"}


def a_line(**values: Any) -> dict[str, Any]:
    """Return a record as `record_to_dict` does."""
    return {
        "topic": "gumlet.video.status.ready", "partition": 3, "offset": 7, "received_at": "2026-01-31T08:00:00.125Z",
        "id": "1", "type": "video.status.ready", "origin": None, "asset_id": "a1", "event": {"status": "ready"},
    } | values  # fmt: skip


@pytest.mark.parametrize("hostile", [*HOSTILE, HOSTILE, "\ud800", "\U000e0001", "\u2028"])
def test_printable_leaves_no_control_character(hostile: str) -> None:
    """Control, format, bidirectional, private and unpaired characters are escaped, each as JSON escapes it."""
    shown = printable(f"x{hostile}y")
    assert controls(shown) == set()
    assert "\n" not in shown
    assert orjson.loads(f'"{shown}"') == f"x{hostile}y" if "\ud800" not in hostile else "\\ud800" in shown


def test_printable_keeps_ordinary_text() -> None:
    """Letters of every script, emoji and wide spaces stay as they are."""
    for text in ("Été à Genève", "東京の夜\u3000二", "Gol! ⚽", "a b"):
        assert printable(text) == text
    assert printable(None) == ""


def test_table_of_hostile_rows_controls_nothing(terminal: Callable[[], str]) -> None:
    """Ids, titles and column values from outside cannot control the terminal."""
    output.show_rows([{"id": HOSTILE, "tags": [HOSTILE]}], ("id", "tags"), as_json=False, title=HOSTILE)
    shown = terminal()
    assert controls(shown) == set()
    assert "\\u001b" in shown


def test_json_on_a_terminal_is_escaped_and_equal(terminal: Callable[[], str]) -> None:
    """JSON printed on a terminal controls nothing, and parses to the same value."""
    value = {"title": HOSTILE}
    for write in (output.write_line, output.write_document):
        write(value)
        shown = terminal()
        assert controls(shown) == set()
        assert orjson.loads(shown) == value


@pytest.mark.parametrize(
    "values",
    [
        {"asset_id": HOSTILE},
        {"topic": HOSTILE},
        {"event": {"title": HOSTILE, "status": HOSTILE, "error": {"code": HOSTILE}}},
        {"event": {"event": {HOSTILE: HOSTILE}}},
        {"event": HOSTILE},
        {"event": [HOSTILE]},
        {"event": {"reason": HOSTILE, "detail": HOSTILE, "pointer": HOSTILE, "received_at": "", "body_base64": 1}},
    ],
)
def test_event_line_of_hostile_events_controls_nothing(values: dict[str, Any]) -> None:
    """Whatever part of an event is hostile, its line is one line without control characters."""
    shown = output.event_line(a_line(**values)).plain
    assert controls(shown) == set()
    assert "\n" not in shown


def test_event_line_has_the_time_with_its_zone() -> None:
    """The time of receipt is local and says its offset."""
    assert output.event_line(a_line()).plain.split("  ")[0][-6] in "+-"


def test_messages_and_errors_control_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages on standard error may quote Gumlet's or Kafka's text."""
    output.echo(HOSTILE)
    assert controls(capsys.readouterr().err) == set()


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 100, 200])
def test_no_word_is_broken_at_any_width(
    terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """A table that does not fit becomes one block per row; words stay whole."""
    monkeypatch.setenv("COLUMNS", str(columns))
    pointer = "/input/transformations/video_codec"
    output.show_rows([ROW | {"pointer": pointer}] * 2, (*ROW, "pointer"), as_json=False)
    words = terminal().split()
    for word in (*" ".join(ROW.values()).split(), pointer):
        assert words.count(word) == 2, word


def test_table_fills_the_width_it_needs(terminal: Callable[[], str]) -> None:
    """A table that fits is a table, with one line per row."""
    output.show_rows([ROW], ROW, as_json=False)
    lines = terminal().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) in (5, 6)


def test_empty_list_says_what_that_means(terminal: Callable[[], str]) -> None:
    """Without rows the message of the caller is printed; a program gets no line."""
    output.show_rows([], ("id",), as_json=False, empty="Nothing is pending: everything is on Kafka.")
    assert terminal() == "Nothing is pending: everything is on Kafka.\n"


def test_rows_in_a_pipe_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets every property of each row, not only the columns."""
    output.show_rows([ROW, ROW], ("type",), as_json=False)
    assert [orjson.loads(line) for line in capsys.readouterr().out.splitlines()] == [ROW, ROW]


def test_confirmation_without_a_terminal_names_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that cannot confirm gets the name of the option to use; --yes asks nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(BridgeError, match="--yes"):
        output.confirm("Proceed?", yes=False)
    output.confirm("Proceed?", yes=True)


@pytest.mark.parametrize(("value", "age"), [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), ("1w", 604_800)])
def test_ages_are_relative_to_now(value: str, age: int) -> None:
    """An age is subtracted from the current time."""
    before = time.time()
    assert before - age - 0.002 <= output.parse_time(value) / 1000 <= time.time() - age


def test_dates_are_read_and_anything_else_is_rejected() -> None:
    """A date with a zone is exact; text that is not a time names the accepted forms."""
    assert output.parse_time("2026-01-31T08:00:00Z") == 1_769_846_400_000
    for value in ("yesterday", "", "12", "2h30", "0000-01-01", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(typer.BadParameter, match="30m"):
            output.parse_time(value)


def test_export_reports_the_count_and_an_unwritable_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of lines is reported; a file that cannot be written names the fix."""
    file = tmp_path / "rows.jsonl"
    output.export_lines([ROW], file, "rows")
    assert orjson.loads(file.read_bytes()) == ROW
    assert "1 rows written" in capsys.readouterr().err
    with pytest.raises(BridgeError, match="Fix"):
        output.export_lines([ROW], tmp_path / "absent" / "file", "rows")
