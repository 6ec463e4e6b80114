"""Builds the consumers of `schemas/consumers/` as their headers say, and returns the commands that start them.

A test is skipped by name if its language's tools are missing or its packages cannot be fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bridge.contract.schemas import schemas_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

CONSUMERS = schemas_directory() / "consumers"
BUILD_SECONDS = 900
MAVEN = ("mvn", "--quiet", "--batch-mode")
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin") or "go"
PATH = os.pathsep.join([str(Path(sys.executable).parent), str(Path(GO).parent), os.environ["PATH"]])
"""Includes `gumlet-bridge`, which writes the bundled schemas."""


def python_command() -> list[str | Path]:
    """Return the command of the Python consumer, which needs no build."""
    return [sys.executable, CONSUMERS / "python" / "consumer.py"]


def build_go(directory: Path) -> list[str | Path]:
    """Generate the types, and build the Go consumer."""
    source = _copy("go", directory)
    _fetch((GO, "mod", "download"), source)
    _run((GO, "generate"), source)
    _run((GO, "vet"), source)
    _run((GO, "build", "-o", "consumer"), source)
    return [source / "consumer"]


def build_typescript(directory: Path) -> list[str | Path]:
    """Generate the types, and compile the TypeScript consumer."""
    source = _copy("typescript", directory)
    _fetch(("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"), source)
    _run(("npm", "run", "--silent", "build"), source)
    return ["node", source / "dist" / "consumer.js"]


def build_java(directory: Path) -> list[str | Path]:
    """Generate the types, and compile the Java consumer."""
    source = _copy("java", directory)
    _run(("gumlet-bridge", "schemas", "bundle", "build"), source)
    _fetch((*MAVEN, "dependency:resolve", "dependency:resolve-plugins"), source)
    _run((*MAVEN, "package"), source)
    return ["java", "-cp", f"{source}/target/classes:{source}/target/jars/*", "Consumer"]


BUILDS = {"go": build_go, "typescript": build_typescript, "java": build_java}


def _copy(language: str, directory: Path) -> Path:
    ignored = shutil.ignore_patterns("node_modules", "build", "dist", "target", "*.d.ts", "events.go")
    return Path(shutil.copytree(CONSUMERS / language, directory / language, ignore=ignored))


def _fetch(command: Sequence[str], source: Path) -> None:
    """Fetch the packages; skip the test if the tool is missing or a package is unavailable."""
    if shutil.which(command[0], path=PATH) is None:
        pytest.skip(f"NOT RUN: there is no {Path(command[0]).name} on this machine")
    done = _execute(command, source)
    if done.returncode:
        output = f"{done.stdout}{done.stderr}".strip().splitlines() or ["no output"]
        pytest.skip(f"NOT RUN: {command[0]} cannot fetch the packages: {output[-1]}")


def _run(command: Sequence[str], source: Path) -> None:
    done = _execute(command, source)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def _execute(command: Sequence[str], source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=source,
        env=os.environ | {"PATH": PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
