"""Every error that the bridge raises itself, typed by what its catcher must do.

BridgeError
├── ConfigError        end with exit code 78: the message lists each mistake and its fix
├── ContractError      end with exit code 78: a schema file is missing or wrong
├── TopicMismatchError       end with exit code 78: Kafka's topics are not as the contract says
├── RegistryError      ask the schema registry again later, or tell what it said
├── JournalLocked      end with exit code 75: another process holds the journal
├── UnsupportedJournalVersion      end with exit code 78: written by another version of the bridge
└── Refused            answer 503: the delivery was not made durable, Gumlet will try again
"""

from __future__ import annotations

EX_TEMPFAIL = 75
"""sysexits.h: try again later."""
EX_CONFIG = 78
"""sysexits.h: configuration error. A supervisor should not restart on it."""


class BridgeError(Exception):
    """What a user is told about in one clear message, without a traceback."""

    exit_code = 1


class ConfigError(BridgeError):
    """The configuration has mistakes; the message lists all of them."""

    exit_code = EX_CONFIG


class ContractError(BridgeError):
    """The files in `schemas/` cannot be used."""

    exit_code = EX_CONFIG


class TopicMismatchError(BridgeError):
    """Kafka's topics are not as the contract says, and `verify` was asked."""

    exit_code = EX_CONFIG


class RegistryError(BridgeError):
    """The schema registry gave no answer to go on with; the message says what to do.

    `status` is the HTTP status, 0 without an answer; `said` the registry's own words.
    """

    def __init__(self, message: str, status: int = 0, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said


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
