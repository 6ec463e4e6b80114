"""The definition of a URL of the bridge, which the daemon and the commands share."""

from __future__ import annotations

import pytest

from bridge.webhook import is_same_url, is_source_name, source_in_path, source_in_url, url_error


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/webhooks/gumlet", "default"),
        ("/webhooks/gumlet/", "default"),
        ("/webhooks/gumlet/films", "films"),
        ("/webhooks/gumlet/films/", "films"),
        ("/webhooks/gumlet/..", ".."),
        ("/webhooks/gumlet//", None),
        ("/webhooks/gumlet//films", None),
        ("/webhooks/gumlet/films//", None),
        ("/webhooks/gumlet/films/more", None),
        ("/webhooks/gumletx", None),
        ("/prefix/webhooks/gumlet", None),
        ("//webhooks/gumlet", None),
        ("/", None),
    ],
)
def test_source_in_path_accepts_one_trailing_slash(path: str, source: str | None) -> None:
    """A path with or without a trailing slash names the same source; any other path names none."""
    assert source_in_path(path) == source


@pytest.mark.parametrize("name", ["films", "a", "A.b_c-9", "5f462c1561cf8a766464ffc4", "x" * 64])
def test_source_name_is_accepted(name: str) -> None:
    """Letters, digits, '.', '_' and '-' are accepted, a letter or digit first."""
    assert is_source_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "_x", "x" * 65, "a b", "films\n", "é", "a/b", "a%20"])
def test_source_name_is_rejected(name: str) -> None:
    """A name that is not safe in a URL, a metric label or a command line is rejected."""
    assert not is_source_name(name)


def test_public_url_may_have_a_prefix() -> None:
    """A reverse proxy may serve the bridge below a prefix; the source is still found."""
    assert source_in_url("https://example.com/hooks/webhooks/gumlet/films/") == "films"
    assert source_in_url("https://example.com/webhooks/gumlet/-x") is None
    assert source_in_url("https://example.com/webhooks") is None


@pytest.mark.parametrize(
    ("url", "allowed_sources"),
    [
        ("ftp://example.com/webhooks/gumlet", ()),
        ("/webhooks/gumlet", ()),
        ("https://[", ()),
        ("https://example.com/webhooks/gumle", ()),
        ("https://example.com/webhooks/gumlet/..%2f", ()),
        ("https://example.com/webhooks/gumlet/other", ("films",)),
    ],
)
def test_url_that_the_daemon_would_not_serve_has_an_error(url: str, allowed_sources: tuple[str, ...]) -> None:
    """The commands report what the daemon would respond to the URL."""
    assert url_error(url, allowed_sources)


@pytest.mark.parametrize("path", ["", "/", "/films", "/films/"])
def test_url_that_the_daemon_serves_has_no_error(path: str) -> None:
    """The default source and the allowed sources have no error, with or without a trailing slash."""
    assert url_error(f"https://example.com/webhooks/gumlet{path}", ("films",)) is None


def test_urls_are_compared_as_the_daemon_reads_them() -> None:
    """The case of the host, the default port and a trailing slash make no difference; the source does."""
    assert is_same_url("https://Example.com:443/webhooks/gumlet/", "https://example.com/webhooks/gumlet")
    assert not is_same_url("https://example.com/webhooks/gumlet/a", "https://example.com/webhooks/gumlet")
