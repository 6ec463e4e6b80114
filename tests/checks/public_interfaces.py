"""Finds uses of private names of libraries: attributes and imports that start with an underscore.

Three kinds: an import; an attribute of anything but `self`, `cls` and our own modules' names, also by `getattr` and
`setattr`; a name in a subclass of a library's class that this class has too, so that ours replaces or reads the
library's. The third imports the library's class and looks at its attributes and at what its source sets on `self`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

OWN = {"bridge", "tests", "schemas", "__main__"}
PUBLIC = {"_make", "_asdict", "_replace", "_fields", "_field_defaults", "_exit"}
"""Documented, in spite of their underscore: those of named tuples, and `os._exit`."""
BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "delitem"}


class Finding(NamedTuple):
    """A use of a private name."""

    path: str
    line: int
    name: str
    use: str


def is_private(name: str) -> bool:
    """Return whether a name is private by convention."""
    return name.startswith("_") and not name.endswith("__") and name.strip("_") != "" and name not in PUBLIC


def defined_names(tree: ast.AST) -> set[str]:
    """Return the private names that a module defines: functions, classes, variables, fields, attributes of `self`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def find_uses(path: str, tree: ast.AST, own: Iterable[str], namespace: Mapping[str, Any]) -> list[Finding]:
    """Return the uses of private names in a module. `own`: private names that are ours; `namespace`: the module's."""
    found = [Finding(path, line, name, use) for line, name, use in _imports(tree)]
    found += [Finding(path, line, name, use) for line, name, use in _attributes(tree) if name not in own]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found += [Finding(path, line, name, use) for line, name, use in _overrides(node, namespace)]
    return found


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *parts = name.split(".")
            private = [part for part in [top, *parts] if is_private(part)]
            if private and top not in OWN:
                yield node.lineno, private[0], f"import of {name}"


def _attributes(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not _is_self(node.value):
            yield node.lineno, node.attr, ast.unparse(node)
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            strings = [
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if function in BY_NAME and not (node.args and _is_self(node.args[0])):
                for name in strings:
                    if is_private(last := name.rpartition(".")[2]):
                        yield node.lineno, last, ast.unparse(node)


def _overrides(node: ast.ClassDef, namespace: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    library = {name: base for base in _library_bases(node, namespace) for name in _names_of(base)}
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            name = part.name
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part in _class_level(node):
            name = part.id
        elif isinstance(part, ast.Attribute) and _is_self(part.value):
            name = part.attr
        else:
            continue
        if is_private(name) and name in library:
            base = library[name]
            yield part.lineno, name, f"{node.name}.{name} is also of {base.__module__}.{base.__qualname__}"


def _class_level(node: ast.ClassDef) -> list[ast.AST]:
    return [
        part
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for part in ast.walk(statement)
    ]


def _library_bases(node: ast.ClassDef, namespace: Mapping[str, Any]) -> list[type]:
    found = []
    for base in node.bases:
        expression = base.value if isinstance(base, ast.Subscript) else base
        value: Any = namespace.get(ast.unparse(expression).partition(".")[0])
        for part in ast.unparse(expression).split(".")[1:]:
            value = getattr(value, part, None)
        if isinstance(value, type):
            found += [
                each for each in value.__mro__ if each.__module__.partition(".")[0] not in {*OWN, "builtins", "typing"}
            ]
    return found


def _names_of(base: type) -> set[str]:
    try:
        source = inspect.getsource(base)
    except (OSError, TypeError):  # written in C
        source = ""
    return {*vars(base), *re.findall(r"\bself\.(_[A-Za-z]\w*)", source)}


def modules(*folders: str) -> list[Path]:
    """Return the Python files below the folders."""
    return sorted(path for folder in folders for path in Path(folder).rglob("*.py") if "node_modules" not in path.parts)
