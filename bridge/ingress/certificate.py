"""The ingress's certificate, read again when its files change: a renewal needs no restart.

New connections get the new certificate, those of now keep what they have. A pair that cannot be used is told and
changes nothing, so the two files may be replaced one after the other.
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
    """A certificate with its key, as the context that new connections are made with."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise ConfigError when the pair cannot be used."""
        self._files = certificate, key
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
        """Return the configured certificate; None when the ingress speaks plain HTTP."""
        if settings.tls_certfile is None or settings.tls_keyfile is None:
            return None
        return cls(settings.tls_certfile, settings.tls_keyfile)

    def refresh(self) -> None:
        """Read the files again if they have changed."""
        try:
            stamp = self._file_signature()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._load()  # apart first: a pair that does not match would leave the context in use half changed
            self.context.load_cert_chain(*self._files, password="")
        except OSError as error:
            _log.error("tls_certificate_reload_failed", detail=str(error), hint="the one before stays in use")
        else:
            _log.info("certificate_reloaded", file=str(self._files[0]))

    def _file_signature(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in map(Path.stat, self._files))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Never None: OpenSSL would ask a terminal for a password that is missing, and a daemon would hang there.
        context.load_cert_chain(*self._files, password="")
        return context
