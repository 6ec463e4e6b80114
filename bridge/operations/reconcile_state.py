"""Where an interrupted reconciliation goes on: what Gumlet was asked already, and what became of each event.

Promises: the file is replaced as a whole and synced, so that a crash leaves the old state or the new one. It spares
requests and nothing else: whether an event is on Kafka is asked of Kafka each time, so an old or a lost file publishes
nothing twice. One that belongs to another Gumlet, Kafka or choice of webhooks (`identity`) is not gone on from.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from bridge.errors import BridgeError
from bridge.operations.reconciliation import Missing

if TYPE_CHECKING:
    from pathlib import Path

STALE_SECONDS = 24 * 3600
"""After a day of retries Gumlet has given up other deliveries: what an older survey found is not all."""


@dataclass(slots=True)
class State:
    """What is known so far. `began_ms` is when the survey began, `surveyed` the webhooks that it is through with."""

    identity: str
    began_ms: int
    surveyed: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    unknowable: list[Missing] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The report's lines of the events that are through."""


class Checkpoint:
    """The file of a state; without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, identity: str) -> State | None:
        """Return the state to go on from; None: begin anew. Raises BridgeError for what is no state's file."""
        if self._path is None or not self._path.exists():
            return None
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=State)
        except OSError as error:
            raise BridgeError(f"{self._path}: {error.strerror}. Fix: make it readable, or another --state.") from error
        except msgspec.MsgspecError as error:
            raise BridgeError(
                f"{self._path} is no state of a reconciliation: {error}. Fix: another --state, or remove it: then the "
                "survey begins anew, and nothing is published twice."
            ) from error
        fresh = time.time() - state.began_ms / 1000 < STALE_SECONDS
        return state if fresh and state.identity == identity else None

    def save(self, state: State) -> None:
        """Replace the file. Raises BridgeError when it cannot be written."""
        if self._path is None:
            return
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise BridgeError(f"{new}: {error.strerror}. Fix: a --state in a directory that can be written.") from error

    def done(self) -> None:
        """Remove the file: the next run begins anew."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
