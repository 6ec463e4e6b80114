"""`make profile`: where the whole way's time goes under load, as a flame graph (py-spy)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread

from tests.support import brokers

from . import load, servers
from .scenarios import BODY

SECONDS = 8


def main() -> None:
    """Load the daemon while py-spy looks at it, and write the graph where the argument says."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(dir=Path.cwd() / ".cache") as directory:
        scratch = Path(directory)
        with (
            brokers.apache_kafka(scratch / "kafka") as kafka,
            servers.bridge(scratch / "run", kafka.bootstrap_servers, "profile.") as server,
        ):
            loading = Thread(
                target=load.closed, args=(server.url, BODY, scratch), kwargs={"seconds": SECONDS + 1}, daemon=True
            )
            loading.start()
            spy = [
                str(Path(sys.executable).with_name("py-spy")),
                "record",
                "--pid",
                str(server.pid),
                "--duration",
                str(SECONDS),
                "--rate",
                "250",
            ]
            subprocess.run([*spy, "--format", "flamegraph", "--output", str(target)], check=True)
            loading.join()


if __name__ == "__main__":
    main()
