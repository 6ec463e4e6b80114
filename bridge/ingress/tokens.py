"""The secret tokens that authorize a delivery: several at once, compared in constant time, reloaded from their file.

A line of the tokens file is a token, optionally followed by its name and its expiry time:

    5Zk3…               a plain token
    9fQa… name=gumlet-2026 expires=2026-12-31T00:00:00Z

Only digests are kept and compared: neither the length nor the text of a token leaks through timing, a memory dump or
a repr.
"""

from __future__ import annotations

import codecs
import hashlib
import hmac
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from pydantic import SecretStr

from bridge.config.settings import Settings
from bridge.errors import ConfigError
from bridge.telemetry.token_status import ALL_EXPIRED, NEXT_STEP_EXPIRED, TokenStatus

RELOAD_SECONDS = 1.0
"""How often the tokens file is checked for a change."""
MAX_TOKEN_LENGTH = 1024
"""A longer token is rejected without hashing it: a sender without a token must not cause work of any size."""

CONFIGURED, UNNAMED = "configured", "unnamed"
"""Names in metrics and logs of the tokens of BRIDGE_TOKENS, and of tokens in the file without a name."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = structlog.stdlib.get_logger()


class Token(NamedTuple):
    """Digest, name and expiry time of a token, in seconds since the epoch (None: never)."""

    digest: bytes
    name: str
    expires: float | None = None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _decode(content: bytes) -> str:
    """Return the text of a tokens file, which an editor may have saved with a byte order mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("the file is UTF-16. Fix: save it as UTF-8")
    return content.decode("utf-8-sig", "surrogateescape")


def active_tokens(file: Path) -> list[str]:
    """Return the tokens of a tokens file that have not expired, as a sender sends them. Raises ConfigError."""
    try:
        lines = _lines(_decode(file.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. Fix: make it readable.") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}.") from None
    return [secret for secret, _, expires in lines if expires is None or expires > time.time()]


def _lines(text: str) -> list[tuple[str, str, float | None]]:
    """Parse a tokens file. Raises ValueError, which names the line and never quotes it."""
    found: list[tuple[str, str, float | None]] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        secret, *parts = line.split()
        attributes = dict(part.split("=", 1) for part in parts if part.startswith(("name=", "expires=")))
        if len(attributes) != len(parts):
            raise ValueError(
                f"line {number}: after the token and a space only name=… and expires=… are allowed, once each"
            )
        name = attributes.get("name", UNNAMED)
        if not _NAME.fullmatch(name):
            raise ValueError(f"line {number}: name must be 1-64 of letters, digits, '.', '_', '-'")
        found.append((secret, name, _parse_expiry(attributes.get("expires"), number)))
    return found


def _parse_expiry(value: str | None, number: int) -> float | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"line {number}: expires must be a date or a time as in 2026-12-31T00:00:00Z") from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


class Tokens:
    """The tokens that are valid now."""

    def __init__(self, tokens: tuple[SecretStr, ...], file: Path | None, *, allow_unauthenticated: bool) -> None:
        """Raise ConfigError when the file is invalid, or when no token is valid and authentication is not disabled."""
        self._static_tokens = tuple(Token(_digest(token.get_secret_value()), CONFIGURED) for token in tokens)
        self._last_used: dict[str, float] = {}
        self._reported_expired: set[Token] = set()
        self._file = file
        self._file_signature: tuple[int, int, int] | None = None
        self._next_check = 0.0
        self.file_fault = ""  # why the file could not be read again; the tokens known so far stay valid meanwhile
        self._valid: tuple[Token, ...] = self._static_tokens
        if file is not None:
            try:
                self._read(file)
            except OSError as error:
                raise ConfigError(f"BRIDGE_TOKENS_FILE {file}: {error.strerror}. Fix: make it readable.") from error
            except ValueError as error:
                raise ConfigError(f"BRIDGE_TOKENS_FILE {file}: {error}.") from None
        self._authentication_disabled = allow_unauthenticated and not self._valid
        if not self._authentication_disabled and not any(status.is_valid(time.time()) for status in self.statuses()):
            empty = "the file contains no token. Fix: write one token on each line"
            fault = f"{ALL_EXPIRED}. Fix: {NEXT_STEP_EXPIRED}" if self._valid else empty
            raise ConfigError(
                f"BRIDGE_TOKENS_FILE {file}: {fault}; or set BRIDGE_ALLOW_UNAUTHENTICATED=true to accept deliveries "
                "from anyone."
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> Tokens:
        """Return the tokens that are configured."""
        return cls(settings.token_list, settings.tokens_file, allow_unauthenticated=settings.allow_unauthenticated)

    def statuses(self) -> list[TokenStatus]:
        """Return name, expiry and last use of every token, never the token itself."""
        self._reload_when_due()
        return [TokenStatus(token.name, token.expires, self._last_used.get(token.name)) for token in self._valid]

    @property
    def authentication_disabled(self) -> bool:
        """Whether deliveries are accepted without a token."""
        return self._authentication_disabled

    def accepts(self, presented: str) -> bool:
        """Return whether a token is valid. It is compared with every token, whichever matches."""
        self._reload_when_due()
        if len(presented) > MAX_TOKEN_LENGTH:
            return False
        digest = _digest(presented)
        found: Token | None = None
        for valid in self._valid:
            if hmac.compare_digest(digest, valid.digest):
                found = valid
        if found is None:
            return False
        now = time.time()
        if found.expires is not None and now >= found.expires:
            if found not in self._reported_expired:
                self._reported_expired.add(found)
                _log.warning("token_expired", name=found.name)
            return False
        self._last_used[found.name] = now
        return True

    def _reload_when_due(self) -> None:
        if self._file is not None and time.monotonic() >= self._next_check:
            self._reload_if_changed(self._file)

    def _reload_if_changed(self, file: Path) -> None:
        """Read a changed file. The tokens known so far stay valid while it is missing, empty or invalid."""
        fault = ""
        try:
            if self._signature(file) == self._file_signature:
                return
            self._read(file)
            _log.info("tokens_reloaded", file=str(file), tokens=len(self._valid))
        except OSError as error:  # a rotation may replace the file in two steps
            self._file_signature = None
            fault = f"{file}: {error.strerror}"
        except ValueError as error:
            fault = f"{file}: {error}"
        finally:
            self._next_check = time.monotonic() + RELOAD_SECONDS
        if fault and fault != self.file_fault:
            _log.error("tokens_file_reload_failed", detail=fault, kept=len(self._valid))
        self.file_fault = fault

    @staticmethod
    def _signature(file: Path) -> tuple[int, int, int]:
        status = file.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self, file: Path) -> None:
        """Replace the tokens by those of the file; an invalid file is not read again until it changes."""
        self._file_signature = self._signature(file)
        found = tuple(Token(_digest(secret), name, end) for secret, name, end in _lines(_decode(file.read_bytes())))
        if not found and len(self._valid) > len(self._static_tokens):
            raise ValueError("the file contains no token")
        self._valid = (*self._static_tokens, *found)
