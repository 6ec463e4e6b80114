"""Every exception that the bridge raises itself, grouped by what its catcher must do.

BridgeError
├── ConfigError                    end with exit code 78: the message lists each mistake and its fix
│   └── RegistryIncompatible       the registry cannot give what the wire format needs
├── ContractError                  end with exit code 78: a schema file is missing or invalid
├── RegistryError                  request the schema registry again later, or show its message
├── JournalLocked                  end with exit code 75: another process holds the journal
├── UnsupportedJournalVersion      end with exit code 78: written by another version of the bridge
└── DeliveryRejected               respond 503: the delivery was not made durable; Gumlet sends it again
"""

from __future__ import annotations

FIX = " Fix: "
"""Separates the cause in a message from what to do about it."""
EX_TEMPFAIL = 75
"""sysexits.h: try again later."""
EX_CONFIG = 78
"""sysexits.h: configuration error. A supervisor should not restart on it."""


def split_fix(message: str) -> tuple[str, str]:
    """Return the cause and the fix of a message, each without its full stop; the fix is empty where none is named."""
    cause, _, fix = message.partition(FIX)
    return cause.removesuffix("."), fix.removesuffix(".")


class BridgeError(Exception):
    """Base class of errors that are reported to the user in one message, without a traceback."""

    exit_code = 1


class ConfigError(BridgeError):
    """The configuration has mistakes; the message lists all of them."""

    exit_code = EX_CONFIG


class ContractError(BridgeError):
    """The files in `schemas/` cannot be used."""

    exit_code = EX_CONFIG


class RegistryError(BridgeError):
    """The schema registry did not respond, or not with a usable response; the message names the fix.

    `status` is the HTTP status, 0 without a response; `said` the registry's error message.
    """

    def __init__(self, message: str, status: int = 0, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said


class RegistryIncompatible(ConfigError):
    """The schema registry cannot give what the wire format needs, now or later."""


class JournalLocked(BridgeError):
    """Another process holds the journal's directory."""

    exit_code = EX_TEMPFAIL


class UnsupportedJournalVersion(BridgeError):
    """The journal was written by another version of the bridge."""

    exit_code = EX_CONFIG


class DeliveryRejected(BridgeError):
    """A delivery that cannot be made durable now. `reason` is one word, for the metric and the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
