"""The TLS certificate of the public port, reloaded when its files change: a renewal needs no restart.

New connections use the new certificate; open connections keep the previous one. An invalid pair is logged, not used
and retried, so the two files may be replaced one after the other.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

import structlog

from bridge.config.settings import Settings
from bridge.errors import ConfigError

_log = structlog.stdlib.get_logger()


class Certificate:
    """A certificate and its key, as the SSL context of new connections."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise ConfigError when the pair is invalid."""
        self._files = certificate, key
        self._fault = ""
        try:
            self._stamp = self._file_signature()
            self.context = self._load()
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"BRIDGE_TLS_CERTFILE {certificate}, BRIDGE_TLS_KEYFILE {key}: {error}. "
                "Fix: a PEM file of the certificate with its chain, and one of its key, without a password."
            ) from error

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Return the configured certificate; None when the public port serves plain HTTP."""
        if settings.tls_certfile is None or settings.tls_keyfile is None:
            return None
        return cls(settings.tls_certfile, settings.tls_keyfile)

    def refresh(self) -> None:
        """Reload the files if they have changed since they were loaded; a failure is retried at the next call."""
        try:
            stamp = self._file_signature()
            if stamp == self._stamp:
                return
            self.context = self._load()
        except OSError as error:
            if self._fault != str(error):  # called once per second: log each failure once
                self._fault = str(error)
                _log.error("tls_certificate_reload_failed", detail=self._fault, hint="keeping the previous certificate")
        else:
            self._stamp = stamp
            self._fault = ""
            _log.info("certificate_reloaded", file=str(self._files[0]))

    def _file_signature(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((status.st_mtime_ns, status.st_ino, status.st_size) for status in map(Path.stat, self._files))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # With None, OpenSSL would ask on the terminal for the password of an encrypted key, and a daemon would hang.
        context.load_cert_chain(*self._files, password="")
        return context
