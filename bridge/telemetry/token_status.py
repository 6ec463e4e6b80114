"""What may be shown of the tokens: name, expiry and last use; never a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bridge.telemetry.collectors import Labels, Reading
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.units import format_span

ALL_EXPIRED = "every token has expired: deliveries get 401"
NEXT_STEP_EXPIRED = "add a token to BRIDGE_TOKENS_FILE and set it in Gumlet's dashboard"

NEXT_STEP_EXPIRING = "add the next token to BRIDGE_TOKENS_FILE, set it in Gumlet's dashboard, then remove the old line"
EXPIRY_WARNING_SECONDS = 7 * 86400


class TokenStatus(NamedTuple):
    """A configured token: its name, and two times in seconds since the epoch (None: never)."""

    name: str
    expires: float | None
    last_used: float | None

    def is_valid(self, now: float) -> bool:
        """Return whether the token is accepted at `now`."""
        return self.expires is None or now < self.expires


def expiry_warning(token: TokenStatus, now: float) -> str | None:
    """Return that a token has expired or expires within seven days."""
    seconds = float("inf") if token.expires is None else token.expires - now
    if seconds >= EXPIRY_WARNING_SECONDS:
        return None
    return f"the token {token.name} {'has expired' if seconds <= 0 else f'expires in {format_span(seconds)}'}"


def register_tokens(metrics: Metrics, statuses: Callable[[], Iterable[TokenStatus]]) -> None:
    """Expose how many tokens are valid, when each expires and when each was used last."""

    def times(read: Callable[[TokenStatus], float | None]) -> Iterable[tuple[Labels, float]]:
        # Several tokens can share a name; a label value may occur once.
        values = {token.name: value for token in statuses() if (value := read(token)) is not None}
        return [((name,), value) for name, value in values.items()]

    metrics.register_gauge(
        "bridge_tokens_valid",
        "Tokens that are accepted now; with 0, every delivery is rejected (unless authentication is disabled).",
        lambda: sum(token.is_valid(time.time()) for token in statuses()),
    )
    metrics.register_gauges(
        Reading("bridge_token_expiry_timestamp_seconds", "When a token with an expiry date expires.", ("name",)),
        lambda: times(lambda token: token.expires),
    )
    metrics.register_gauges(
        Reading("bridge_token_last_used_timestamp_seconds", "When a delivery last carried this token.", ("name",)),
        lambda: times(lambda token: token.last_used),
    )
