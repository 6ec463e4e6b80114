"""The reload of the TLS certificate."""

from __future__ import annotations

import errno
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.errors import ConfigError
from bridge.ingress.certificate import Certificate

LOGGED = "tls_certificate_reload_failed"


def create_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Create a self-signed certificate and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", f"/CN={name}", "-days", "2", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the files of a certificate in use."""
    return create_pair(tmp_path, "first")


def replace(pair: tuple[Path, Path], source: tuple[Path, Path]) -> None:
    """Replace both files."""
    for old, new in zip(pair, source, strict=True):
        shutil.copy(new, old)


def test_renewal_that_fails_once_without_a_further_change_is_retried(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file descriptor was free for a moment: the renewed certificate is used as soon as one is."""
    certificate = Certificate(*pair)
    before = certificate.context
    replace(pair, create_pair(tmp_path, "second"))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(ssl.SSLContext, "load_cert_chain", fail)
        certificate.refresh()
        certificate.refresh()
    assert [line["event"] for line in logs] == [LOGGED], "a fault is logged once"
    assert certificate.context is before
    with capture_logs() as logs:
        certificate.refresh()
        certificate.refresh()
    assert [line["event"] for line in logs] == ["certificate_reloaded"]
    assert certificate.context is not before


def test_half_written_files_with_the_old_size_and_time_are_retried(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The signature of the files does not show whether they were complete when they were read."""
    certificate = Certificate(*pair)
    before = certificate.context
    renewed = create_pair(tmp_path, "second")
    whole = renewed[0].read_bytes()
    replace(pair, renewed)
    pair[0].write_bytes(whole[:-40] + b"\n" * 40)
    status = pair[0].stat()
    with capture_logs() as logs:
        certificate.refresh()
    assert [line["event"] for line in logs] == [LOGGED]
    assert certificate.context is before
    pair[0].write_bytes(whole)
    os.utime(pair[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    certificate.refresh()
    assert certificate.context is not before


def test_missing_file_keeps_the_certificate_until_it_is_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A renewal may remove a file before it writes the new one."""
    certificate = Certificate(*pair)
    before = certificate.context
    pair[1].unlink()
    with capture_logs() as logs:
        certificate.refresh()
    assert [line["event"] for line in logs] == [LOGGED]
    replace(pair, create_pair(tmp_path, "second"))
    certificate.refresh()
    assert certificate.context is not before


def test_pair_that_does_not_match_is_rejected_at_start(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The error names the settings."""
    with pytest.raises(ConfigError, match="BRIDGE_TLS_CERTFILE"):
        Certificate(pair[0], create_pair(tmp_path, "second")[1])
