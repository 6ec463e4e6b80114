"""`gumlet-bridge serve` with some of its constants changed, for measuring what they are worth. Not for use.

Arguments: `module.NAME=expression`, any number of them; `PRAGMA ...` is done on the journal's connections. What
follows `--` is not looked at: it is the command that this process stands in for.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
from typing import Any

from bridge import cli
from bridge.queue import journal_file


def _pragma(statement: str) -> None:
    connect = journal_file.JournalFile._connect

    def connected(self: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path)
        connection.execute(statement)  # a page's size counts before the file has any
        connection.close()
        connection = connect(self)
        connection.execute(statement)
        return connection

    setattr(journal_file.JournalFile, "_connect", connected)  # noqa: B010 - mypy minds an assignment to a method


def main() -> None:
    """Change what is asked for, and serve."""
    for change in sys.argv[1 : sys.argv.index("--")]:
        if change.startswith("PRAGMA"):
            _pragma(change)
        else:
            place, _, expression = change.partition("=")
            module, _, name = place.rpartition(".")
            target = importlib.import_module(module)
            value = eval(expression)  # noqa: S307 - our own list
            if callable(getattr(target, name)):
                getattr(target, name)(value)
            else:
                setattr(target, name, value)
    sys.argv = ["bridge", "serve"]
    cli.main()


if __name__ == "__main__":
    main()
