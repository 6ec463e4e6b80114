"""Asks a running daemon for its status, over the admin address of the settings."""

from __future__ import annotations

import http.client
from typing import Any

import orjson

from bridge.config.settings import Settings
from bridge.errors import BridgeError

TIMEOUT_SECONDS = 3.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to replace, not to bind


def fetch_status(settings: Settings) -> dict[str, Any]:
    """Return the document of /status. Raises BridgeError when no daemon answers there."""
    host, port = settings.admin_address
    connection = http.client.HTTPConnection(_ANY_ADDRESS.get(host, host), port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status")
        return dict(orjson.loads(connection.getresponse().read()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BridgeError(
            f"no daemon answers at {settings.admin_listen}: {error}. Fix: start it, or set BRIDGE_ADMIN_LISTEN."
        ) from error
    finally:
        connection.close()
