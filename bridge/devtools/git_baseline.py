"""Reads an earlier state of the schema files: from a directory, or from the git repository that holds them.

The default baseline is the first of these that exists: the newest tag; the commit where this branch left the remote's
default branch; the parent of the last commit, if nothing has changed since; the last commit, which even a shallow
clone has.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import orjson

from bridge.contract.references import read_files
from bridge.errors import BridgeError


def read(against: str, directory: Path) -> dict[str, dict[str, Any]]:
    """Return the schema files of a directory, or of `directory` at a git reference. Raises `BridgeError` if none."""
    if Path(against).is_dir():
        files = read_files(Path(against))
    else:
        # An argument that begins with a dash would be an option to git.
        archive = None if against.startswith("-") else _git(directory, "archive", "--format=tar", against)
        if archive is None:
            raise BridgeError(
                f"{against} is not a directory, and not a git reference with schemas. Fix: name a directory, a commit, "
                "a tag or a branch of the repository that has the schemas."
            )
        files = _members(archive)
    if not files:
        raise BridgeError(f"{against} has no schema files. Fix: name a directory or a commit that has some.")
    return files


def default_ref(directory: Path) -> str | None:
    """Return the reference to compare with, or None if the schemas are not in a repository with commits."""
    head = _line(directory, "rev-parse", "--verify", "HEAD")
    if head is None:
        return None
    if tag := _line(directory, "describe", "--tags", "--abbrev=0"):
        return tag
    forked = _line(directory, "merge-base", "HEAD", "origin/HEAD")
    if forked and forked != head:
        return forked
    unchanged = _git(directory, "status", "--porcelain", "--", ".") == b""
    return (_line(directory, "rev-parse", "--verify", "HEAD^") if unchanged else None) or head


def _members(archive: bytes) -> dict[str, dict[str, Any]]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".json") and "/" not in member.name:
                content = tar.extractfile(member)
                files[member.name] = orjson.loads(content.read() if content else b"")
    return files


def _line(directory: Path, *arguments: str) -> str | None:
    output = _git(directory, *arguments)
    return output.decode().strip() if output else None


def _git(directory: Path, *arguments: str) -> bytes | None:
    """Return the output of git, or None if it failed or is not installed."""
    try:
        result = subprocess.run(  # noqa: S603 - no shell, and git takes a reference as one
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None
