"""Who may deliver."""

from __future__ import annotations

import hmac
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from bridge.errors import ConfigError
from bridge.ingress import tokens as auth
from bridge.ingress.tokens import MAX_TOKEN_LENGTH, Tokens


def tokens(*fixed: str, file: Path | None = None, allow: bool = False) -> Tokens:
    """Return tokens that look at their file each time."""
    return Tokens(tuple(SecretStr(each) for each in fixed), file, allow_unauthenticated=allow)


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RELOAD_SECONDS", 0.0)


def test_each_of_several_tokens_is_valid_and_nothing_else() -> None:
    """During a rotation both tokens work; a part, an extension or another case of one does not."""
    valid = tokens("old", "new")
    assert valid.accepts("old")
    assert valid.accepts("new")
    for wrong in ("", "ol", "old ", "oldnew", "OLD", "old,new", "\udcff"):
        assert not valid.accepts(wrong)


def test_every_token_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time does not depend on how much of a token matches: all are compared, by digests of one length."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    valid = tokens("a", "b" * 500, "c")
    for presented in ("a", "c", "nothing"):
        compared.clear()
        valid.accepts(presented)
        assert compared == [(32, 32)] * 3


def test_a_very_long_token_is_refused_unread() -> None:
    """A stranger cannot have megabytes hashed."""
    assert not tokens("x" * (MAX_TOKEN_LENGTH + 1)).accepts("x" * (MAX_TOKEN_LENGTH + 1))


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A new token in the file is valid immediately, a removed one is not; comments and blank lines are ignored."""
    file = tmp_path / "tokens"
    file.write_text("# current\none\n\n")
    valid = tokens("fixed", file=file)
    assert valid.accepts("one")
    assert not valid.accepts("# current")
    file.write_text("two\nthree\n")
    assert [valid.accepts(each) for each in ("one", "two", "three", "fixed")] == [False, True, True, True]


def test_a_file_that_vanishes_or_empties_keeps_what_was_known(tmp_path: Path) -> None:
    """A rotation that replaces the file in two steps rejects no valid token in between."""
    file = tmp_path / "tokens"
    file.write_text("one\n")
    valid = tokens(file=file)
    file.unlink()
    assert valid.accepts("one")
    file.write_text("\n")
    assert valid.accepts("one")
    time.sleep(0.01)
    file.write_text("two\n")
    assert valid.accepts("two")
    assert not valid.accepts("one")


def test_no_token_at_all_is_a_mistake_unless_asked_for(tmp_path: Path) -> None:
    """An empty file opens no door by itself; `allow_unauthenticated` does, and only where there is no token."""
    file = tmp_path / "tokens"
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="contains no token"):
        tokens(file=file)
    assert tokens(file=file, allow=True).authentication_disabled
    assert not tokens("one", allow=True).authentication_disabled
    with pytest.raises(ConfigError, match="make it readable"):
        tokens(file=tmp_path / "absent")


def test_a_line_may_name_its_token_and_end_its_life(tmp_path: Path) -> None:
    """A named token is valid until its expiry time; plain tokens in the same file are unaffected."""
    file = tmp_path / "tokens"
    past, future = "2001-01-01T00:00:00Z", "2999-01-01"
    file.write_text(f"plain\nold name=before expires={past}\nnew name=now expires={future}\n")
    valid = tokens(file=file)
    assert [valid.accepts(each) for each in ("plain", "new")] == [True] * 2
    for wrong in ("old", f"old name=before expires={past}", f"new name=now expires={future}", "now", "with"):
        assert not valid.accepts(wrong)


@pytest.mark.parametrize("line", ["secret expires=soon", "secret name=", "secret name=a/b", "secret expires="])
def test_a_line_that_cannot_be_meant_ends_the_start_and_shows_no_token(tmp_path: Path, line: str) -> None:
    """A mistyped end must not become a token without one: the line is named, what stands in it is not."""
    file = tmp_path / "tokens"
    file.write_text(f"# comment\n{line}\n")
    with pytest.raises(ConfigError, match="line 2") as told:
        tokens(file=file)
    assert "secret" not in str(told.value)


def test_a_mistyped_change_leaves_the_tokens_as_they_were(tmp_path: Path) -> None:
    """While the daemon runs a mistake in the file is logged and changes nothing."""
    file = tmp_path / "tokens"
    file.write_text("old\n")
    valid = tokens(file=file)
    file.write_text("new expires=never\n")
    assert valid.accepts("old")
    assert not valid.accepts("new")


def test_status_shows_name_expiry_and_last_use_but_never_the_token(tmp_path: Path) -> None:
    """Only a token that was accepted has a last use."""
    file = tmp_path / "tokens"
    file.write_text("s3cret name=gumlet\nold name=gone expires=2001-01-01\n")
    tokens = Tokens((SecretStr("fixed"),), file, allow_unauthenticated=False)
    for presented in ("s3cret", "old", "wrong"):
        tokens.accepts(presented)
    statuses = {status.name: status for status in tokens.statuses()}
    assert set(statuses) == {"configured", "gumlet", "gone"}
    assert [name for name, status in statuses.items() if status.last_used is not None] == ["gumlet"]
    assert [name for name, status in statuses.items() if not status.is_valid(time.time())] == ["gone"]
    assert not any(secret in repr(statuses) for secret in ("s3cret", "old", "fixed"))


@pytest.mark.parametrize(
    "line",
    [
        "a token with spaces",
        "token name",
        "token expires 2027-01-01",
        "token  name=a name=b",
        "token name=a extra",
        "t Name=a",
    ],
)
def test_a_line_with_spaces_that_is_not_name_or_expires_is_a_mistake_named_with_its_line(
    tmp_path: Path, line: str
) -> None:
    """Taken as one token, such a line would reject every delivery in silence; the message never quotes it."""
    file = tmp_path / "tokens"
    file.write_text(f"# comment\ngood\n{line}\n")
    with pytest.raises(ConfigError, match="line 3: ") as caught:
        tokens(file=file)
    assert line not in str(caught.value)


def test_a_file_in_which_every_token_has_expired_is_rejected(tmp_path: Path) -> None:
    """A daemon that answers 401 to everything does not start."""
    file = tmp_path / "tokens"
    file.write_text("old name=a expires=2001-01-01\nolder expires=2000-01-01\n")
    with pytest.raises(ConfigError, match="every token has expired"):
        tokens(file=file)


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbftoken\n", b"token\r\n", b"token", b"  token  \n\n", b"\n\ttoken\n# end", b"token\r"],
)
def test_files_of_every_editor_and_secret_store_are_read(tmp_path: Path, content: bytes) -> None:
    """A byte order mark, another line end, none, or spaces at the ends are not part of the token."""
    file = tmp_path / "tokens"
    file.write_bytes(content)
    assert tokens(file=file).accepts("token")


def test_a_file_in_utf_16_is_a_mistake_that_is_named(tmp_path: Path) -> None:
    """PowerShell's `>` writes one."""
    file = tmp_path / "tokens"
    file.write_text("token\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-16"):
        tokens(file=file)


def test_a_mistake_in_a_changed_file_keeps_the_tokens_and_is_reported_until_it_is_fixed(tmp_path: Path) -> None:
    """The status shows it without a delivery, and the log has one line for each change."""
    file = tmp_path / "tokens"
    file.write_text("one\n")
    valid = tokens(file=file)
    file.write_text("one two\n")
    with capture_logs() as logs:
        assert [status.name for status in valid.statuses()] == ["unnamed"]
    assert [line["event"] for line in logs] == ["tokens_file_reload_failed"]
    assert "line 1" in valid.file_fault
    assert valid.accepts("one")
    file.write_text("three\n")
    assert valid.accepts("three")
    assert valid.file_fault == ""


def test_a_file_that_was_moved_away_and_back_has_no_fault(tmp_path: Path) -> None:
    """The fault ends with its cause, although the file is the one that was read before."""
    file = tmp_path / "tokens"
    file.write_text("one\n")
    valid = tokens(file=file)
    file.rename(tmp_path / "away")
    assert valid.accepts("one")
    assert "No such file" in valid.file_fault
    (tmp_path / "away").rename(file)
    assert valid.accepts("one")
    assert valid.file_fault == ""


def test_an_invalid_file_that_was_moved_away_and_back_has_its_fault_again(tmp_path: Path) -> None:
    """The fault is that of the file as it is now."""
    file = tmp_path / "tokens"
    file.write_text("one\n")
    valid = tokens(file=file)
    for content, fault in (("one two\n", "line 1"), (None, "No such file"), ("one two\n", "line 1")):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        assert valid.accepts("one")
        assert fault in valid.file_fault


@pytest.mark.parametrize(
    ("content", "fault"),
    [("two\n".encode("utf-16"), "UTF-16"), (b"one two\n", "line 1"), (b"\n", "no token"), (b"# none", "no token")],
)
def test_an_invalid_change_is_logged_once(tmp_path: Path, content: bytes, fault: str) -> None:
    """One error, no `tokens_reloaded`, and nothing more until the file changes; the tokens stay valid."""
    file = tmp_path / "tokens"
    file.write_text("one\n")
    valid = tokens(file=file)
    file.write_bytes(content)
    with capture_logs() as logs:
        assert [valid.accepts("one") for _ in range(3)] == [True] * 3
    assert [line["event"] for line in logs] == ["tokens_file_reload_failed"]
    assert fault in logs[0]["detail"]
    assert fault in valid.file_fault
