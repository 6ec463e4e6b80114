"""`gumlet-bridge health`: asks a running daemon whether it is ready, for a container's health check.

Reads the admin address from the same settings as the daemon. Output: the daemon's answer on standard output when it is
ready, the reason on standard error when it is not.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

from bridge.config import settings as config
from bridge.errors import BridgeError

TIMEOUT_SECONDS = 3.0

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def health(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file of settings; the environment overrides it."),
    ] = None,
) -> None:
    """Exit 0 when the daemon on this machine is ready to accept deliveries, 1 with the reason when it is not.

    Asks `/readyz` of the admin address in the settings (BRIDGE_ADMIN_LISTEN).

    Example: `HEALTHCHECK CMD ["gumlet-bridge", "health"]` in a Dockerfile
    """
    url = f"{config.load(config_file).admin_url}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - the URL is ours
            typer.echo(response.read().decode().strip())
    except urllib.error.HTTPError as error:
        raise BridgeError(f"not ready: {error.read().decode(errors='replace').strip()}") from error
    except OSError as error:
        raise BridgeError(
            f"no answer from {url}: {error}. Fix: start the daemon, or set BRIDGE_ADMIN_LISTEN."
        ) from error
