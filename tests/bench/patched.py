"""`gumlet-bridge serve` with some of its constants changed, for measuring what they are worth. Not for use.

Arguments: `module.NAME=expression`, any number of them. What
follows `--` is not looked at: it is the command that this process stands in for.
"""

from __future__ import annotations

import importlib
import sys

from bridge import cli


def main() -> None:
    """Change what is asked for, and serve."""
    for change in sys.argv[1 : sys.argv.index("--")]:
        path, _, expression = change.partition("=")
        module, _, name = path.rpartition(".")
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
