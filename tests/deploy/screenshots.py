"""Takes the pictures in deploy/screenshots: a daemon on the embedded broker, the simulator, a headless Chromium.

`.venv/bin/python -m tests.deploy.screenshots`
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bridge.devtools.embedded_broker import EmbeddedBroker
from tests.deploy.browser import chromium
from tests.deploy.external_tools import DEPLOY
from tests.support.daemon import Daemon, Load

SECONDS = 40
RATE = 25


def main() -> None:
    """Watch some traffic, among it what is refused, and take one picture in each scheme."""
    with TemporaryDirectory() as name, EmbeddedBroker() as broker:
        directory = Path(name)
        with (
            Daemon(directory, broker.bootstrap_servers, topics_provision="create") as daemon,
            chromium(width=1040, height=900) as browser,
            Load(daemon, directory, SECONDS * RATE, 1, rate=RATE),
        ):
            browser.open(daemon.admin + "/")
            time.sleep(SECONDS - 8)
            daemon.post(b"{}", token="wrong")
            daemon.post(b"no json")
            time.sleep(3)
            for scheme in ("light", "dark"):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                browser.emulate(command="Emulation.setEmulatedMedia", features=media)
                time.sleep(0.5)
                (DEPLOY / "screenshots" / f"page-{scheme}.png").write_bytes(browser.screenshot())


if __name__ == "__main__":
    main()
