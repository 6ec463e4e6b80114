"""Only public interfaces of libraries are used, in bridge/ and in tests/."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.checks.public_interfaces import Finding, defined_names, find_uses, modules

ROOT = Path(__file__).parents[2]
ALLOWED: dict[tuple[str, str], str] = {}
"""Exceptions: file and name, with the reason why no public interface serves."""


def test_no_private_name_of_a_library_is_used() -> None:
    """Each finding is fixed or has a reason; each reason has its finding."""
    trees = {path: ast.parse(path.read_text()) for path in modules(str(ROOT / "bridge"), str(ROOT / "tests"))}
    own = {name for tree in trees.values() for name in defined_names(tree)}
    found: list[Finding] = []
    for path, tree in trees.items():
        name = str(path.relative_to(ROOT))
        # Of production code only names of the module itself are its own: other modules' are private too.
        known = defined_names(tree) if name.startswith("bridge/") else own
        has_subclass = any(isinstance(node, ast.ClassDef) and node.bases for node in ast.walk(tree))
        dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        found += find_uses(name, tree, known, vars(importlib.import_module(dotted)) if has_subclass else {})

    unexplained = [use for use in found if (use.path, use.name) not in ALLOWED]
    assert not unexplained, "\n".join(f"{use.path}:{use.line}: {use.use}" for use in unexplained)
    assert {(use.path, use.name) for use in found} == set(ALLOWED)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from aiohttp._websocket import reader", "_websocket"),
        ("from asyncio import _set_running_loop", "_set_running_loop"),
        ("import aiohttp._http_parser", "_http_parser"),
        ("def stop(producer):\n    producer._sender.cancel()", "_sender"),
        ("def stop(producer):\n    return getattr(producer, '_sender')", "_sender"),
        ("def test(monkeypatch, producer):\n    monkeypatch.setattr('aiokafka.producer._sender', None)", "_sender"),
        ("import threading\nclass Mine(threading.Thread):\n    def _bootstrap(self): ...", "_bootstrap"),
        ("import threading\nclass Mine(threading.Thread):\n    def run(self):\n        self._target()", "_target"),
        ("from aiohttp import web\nclass Mine(web.Server):\n    def __init__(self):\n        self._loop = 1", "_loop"),
        ("from logging import Handler as H\nclass Mine(H):\n    _name = 'x'", "_name"),
    ],
)
def test_a_private_name_of_a_library_is_found(code: str, name: str) -> None:
    """Imports, attributes, names in strings, and overrides in subclasses."""
    namespace: dict[str, object] = {}
    if "class " in code:
        exec(code, namespace)  # noqa: S102 - the parameters above
    assert [use.name for use in find_uses("module.py", ast.parse(code), set(), namespace)] == [name]


@pytest.mark.parametrize(
    "code",
    [
        "class Mine:\n    def __init__(self):\n        self._value = 1\n    def add(self, other): other._value",
        "import threading\nclass Mine(threading.Thread):\n    def __init__(self):\n        self._my_own = 1",
        "def change(verdict):\n    return verdict._replace(lost=[])._asdict()",
        "def initialize(self):\n    super().__init__()\n    _, rest = self.split()\n    return rest.__class__",
        "from bridge.queue import _private",
    ],
)
def test_private_names_of_ours_and_documented_ones_are_not_found(code: str) -> None:
    """Attributes of our own classes, methods of named tuples and double underscores pass."""
    tree = ast.parse(code)
    namespace: dict[str, object] = {}
    if "class " in code:
        exec(code, namespace)  # noqa: S102 - the parameters above
    assert find_uses("module.py", tree, defined_names(tree), namespace) == []
