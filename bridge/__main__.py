"""Entry point of `gumlet-bridge` and of `python -m bridge`.

The handler of SIGTERM is installed before anything else is imported: the kernel discards a signal to the first process
of a container that has no handler for it, and the imports take a second. The daemon replaces the handler.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def _exit(number: int, _frame: object) -> NoReturn:
    if "serve" in sys.argv[1:]:
        # Until the daemon replaces this handler, nothing is open. An exception can be lost where Python ignores
        # exceptions (a callback of the garbage collector during an import), and the signal with it.
        os._exit(0)
    sys.exit(128 + number)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _exit)
    from bridge.cli import main as run  # noqa: PLC0415 - after the handler

    run()


if __name__ == "__main__":
    main()
