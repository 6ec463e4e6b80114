"""Entry point of `gumlet-bridge` and of `python -m bridge`.

The handler of SIGTERM is installed before anything else is imported: the kernel discards a signal to the first process
of a container that has no handler for it, and the imports take a second. The daemon replaces the handler.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def _exit(number: int, _frame: object) -> NoReturn:
    # A daemon that is stopped while it starts has done what it should; another command has not done its work.
    sys.exit(0 if "serve" in sys.argv[1:] else 128 + number)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _exit)
    from bridge.cli import main as run  # noqa: PLC0415 - after the handler

    run()


if __name__ == "__main__":
    main()
