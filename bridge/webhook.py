"""Gumlet's webhook request: its path, its token header, and the names of sources.

The single definition of "a URL of the bridge". The daemon, `webhooks`, `doctor`, `reconcile`, `simulate` and the
load generator use it, so that a URL that a command accepts is a URL that the daemon serves.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from yarl import URL

WEBHOOK_PATH = "/webhooks/gumlet"
"""Path of a delivery of the default source; `/webhooks/gumlet/{source}` names another one."""
DEFAULT_SOURCE = "default"
"""The source of a delivery to `/webhooks/gumlet` itself."""
TOKEN_HEADER = "x-gumlet-token"  # noqa: S105 - the name of a header
"""Header in which Gumlet sends its secret token."""
SOURCE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Regular expression of a source's whole name: safe in a URL path, in a metric label and as part of an event id."""

_SOURCE = re.compile(SOURCE_PATTERN)
_PATH = re.compile(rf"(?P<prefix>.*?){WEBHOOK_PATH}(?:/(?P<source>[^/]+))?/?", re.DOTALL)


def is_source_name(name: str) -> bool:
    """Return whether a name may be a source."""
    return _SOURCE.fullmatch(name) is not None


def source_in_path(path: str) -> str | None:
    """Return the source named by a decoded request path, None when the path is not a webhook path.

    One trailing slash is ignored. The name is returned as it stands: `is_source_name` validates it.
    """
    match = _PATH.fullmatch(path)
    if match is None or match["prefix"]:
        return None
    return match["source"] or DEFAULT_SOURCE


def source_in_url(url: str | URL) -> str | None:
    """Return the source of a public URL of the bridge, None when the bridge does not serve the URL.

    Unlike a request path, a public URL may have a prefix, which a reverse proxy removes.
    """
    match = _PATH.fullmatch(URL(url).path)
    source = match and (match["source"] or DEFAULT_SOURCE)
    return source if source and is_source_name(source) else None


def url_error(url: str, allowed_sources: Collection[str] = ()) -> str | None:
    """Return why the daemon would not serve a public URL (`allowed_sources` is empty: any source), None if it would."""
    try:
        parts = URL(url)
    except ValueError:
        parts = URL()
    if parts.scheme not in {"http", "https"} or not parts.host:
        return f"{url!r} is not an http:// or https:// URL"
    source = source_in_url(parts)
    if source is None:
        return f"the path of {url} is not {WEBHOOK_PATH} or {WEBHOOK_PATH}/SOURCE: the bridge would respond 404"
    if allowed_sources and source not in {*allowed_sources, DEFAULT_SOURCE}:
        return f"source {source!r} is not in allowed_sources: the bridge would respond 404"
    return None


def is_same_url(left: str, right: str) -> bool:
    """Return whether two URLs reach the same webhook path: the case of the host and a trailing slash do not matter."""
    return _normalized(left) == _normalized(right)


def _normalized(url: str) -> tuple[str, str | None, int | None, str, str]:
    parts = URL(url)
    return parts.scheme, parts.host, parts.port, parts.path.removesuffix("/"), parts.query_string
