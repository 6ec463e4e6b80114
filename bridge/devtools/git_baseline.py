"""An earlier state of the schema files: in a directory, or in the git repository that they lie in.

Without a word from the caller it is, of these, the first that there is: the newest tag, the commit where this branch
left the remote's default branch, the last commit's parent where nothing was changed since, the last commit. A clone
always has the last one, however shallow it is.
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
    """Return the schema files of a directory, or of `directory` at a git reference. None there is an error."""
    if Path(against).is_dir():
        files = read_files(Path(against))
    else:
        # What begins with a dash would be an option to git.
        archive = None if against.startswith("-") else _git(directory, "archive", "--format=tar", against)
        if archive is None:
            raise BridgeError(
                f"{against} is no directory, and git has no schemas there. Fix: name a directory, or a commit, "
                "a tag or a branch of the repository that has the schemas."
            )
        files = _members(archive)
    if not files:
        raise BridgeError(f"{against} has no schema files. Fix: name a directory or a commit that has.")
    return files


def default(directory: Path) -> str | None:
    """Return the reference to compare with, or None where the schemas lie in no repository with commits."""
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
    """Return what git printed, or None where it failed or is not there."""
    try:
        result = subprocess.run(  # noqa: S603 - no shell, and git takes a reference as one
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None
