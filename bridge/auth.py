"""Who may deliver: one of several secret tokens, compared in constant time, read again when their file changes.

Only digests are kept and compared, so neither a token's length nor its text leaks by timing, by a memory dump of
this object or by its repr.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from pathlib import Path

import structlog
from pydantic import SecretStr

from bridge.config import Settings
from bridge.errors import ConfigError

RELOAD_SECONDS = 1.0
"""How long a change of the tokens' file may go unnoticed."""
MAX_TOKEN_LENGTH = 1024
"""A longer header is refused unread: hashing must not be something a stranger can ask for by the megabyte."""

_log = structlog.stdlib.get_logger()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Tokens:
    """The tokens that are valid now."""

    def __init__(self, tokens: tuple[SecretStr, ...], file: Path | None, *, allow_unauthenticated: bool) -> None:
        """Raise ConfigError when the file cannot be read or no token is left and none was asked for."""
        self._fixed = tuple(_digest(token.get_secret_value()) for token in tokens)
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._digests: tuple[bytes, ...] = self._fixed
        if file is not None:
            try:
                self._read(file)
            except OSError as error:
                raise ConfigError(f"BRIDGE_TOKENS_FILE {file}: {error.strerror}. Fix: make it readable.") from error
        self._open = allow_unauthenticated and not self._digests
        if not self._digests and not self._open:
            raise ConfigError(
                f"BRIDGE_TOKENS_FILE {file} holds no token. Fix: write one a line, or set "
                "BRIDGE_ALLOW_UNAUTHENTICATED=true to accept deliveries from anybody."
            )

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """Return the tokens that are configured."""
        return cls(settings.token_list, settings.tokens_file, allow_unauthenticated=settings.allow_unauthenticated)

    @property
    def open_to_all(self) -> bool:
        """True when no token is asked for."""
        return self._open

    def accepts(self, presented: str) -> bool:
        """Tell whether a token is valid; every valid one is compared, whichever matches."""
        if self._file is not None and time.monotonic() >= self._next_look:
            self._look_again(self._file)
        if len(presented) > MAX_TOKEN_LENGTH:
            return False
        digest = _digest(presented)
        found = False
        for valid in self._digests:
            found |= hmac.compare_digest(digest, valid)
        return found

    def _look_again(self, file: Path) -> None:
        try:
            if self._changed(file):
                self._read(file)
                _log.info("tokens_reloaded", file=str(file), tokens=len(self._digests))
        except OSError as error:
            # A rotation may replace the file in two steps. The tokens known so far stay valid meanwhile.
            _log.error("tokens_unreadable", file=str(file), detail=error.strerror)
        self._next_look = time.monotonic() + RELOAD_SECONDS

    def _changed(self, file: Path) -> bool:
        status = file.stat()
        return (status.st_mtime_ns, status.st_ino, status.st_size) != self._stamp

    def _read(self, file: Path) -> None:
        status = file.stat()
        lines = [line.strip() for line in file.read_text().splitlines()]
        found = tuple(_digest(line) for line in lines if line and not line.startswith("#"))
        self._stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if not found and len(self._digests) > len(self._fixed):
            _log.error("tokens_file_empty", file=str(file), kept=len(self._digests))
            return
        self._digests = (*self._fixed, *found)
