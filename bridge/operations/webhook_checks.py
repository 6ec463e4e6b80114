"""The checks of `gumlet-bridge doctor` that need Gumlet's API: the clock, the webhooks, their tokens and deliveries.

Input: settings with an API key. Output: findings. Invariants: nothing is changed at Gumlet; no token is in a finding.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.errors import BridgeError
from bridge.ingress.tokens import Tokens
from bridge.operations.checks import Finding, failure
from bridge.operations.gumlet_api import GumletApi, Webhook, gumlet_api
from bridge.webhook import WEBHOOK_PATH, is_same_url, source_in_url, url_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.config.settings import Settings

DAY_MS = 86_400_000
CLOCK_SECONDS = 30.0
"""Maximum difference between this machine's clock and Gumlet's: the clock gives every record its time."""


async def check_gumlet(settings: Settings, url: str | None, report: Callable[[str], None]) -> list[Finding]:
    """Check each webhook that points to a bridge, or to `url`; `report` gets the lines about waiting and retries."""
    if settings.gumlet.api_key is None:
        return [Finding("gumlet", "not checked", "no API key", "BRIDGE_GUMLET_API_KEY")]
    try:
        async with gumlet_api(settings.gumlet, report) as api:
            webhooks = await api.webhooks()
            ours = [
                webhook
                for webhook in webhooks
                if (is_same_url(webhook.url, url) if url else source_in_url(webhook.url) is not None)
            ]
            findings = [_clock(api.clock_skew_seconds)]
            if url and not ours and (problem := url_error(url, settings.allowed_sources)):
                findings.append(Finding("webhook", "failed", problem, "--url"))
            for webhook in ours:
                if problem := url_error(webhook.url, settings.allowed_sources):
                    fix = f"`gumlet-bridge webhooks update {webhook.id} --url`"
                    findings.append(Finding(f"webhook {webhook.id}", "failed", problem, fix))
                findings += [_token(settings, webhook), await _deliveries(api, webhook)]
    except BridgeError as error:
        return [failure("gumlet", error)]
    if not ours:
        detail = f"none of {len(webhooks)} webhooks points to {url or WEBHOOK_PATH}"
        findings.append(Finding("webhook", "failed", detail, "`gumlet-bridge webhooks create`"))
    return findings


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", "not checked", "Gumlet's response has no time", "compare the clock with NTP")
    if abs(ahead) > CLOCK_SECONDS:
        fix = "synchronize the clock: it gives every record its time"
        return Finding("clock", "failed", f"{ahead:+.0f} s from Gumlet's", fix)
    return Finding("clock", "ok", f"within {CLOCK_SECONDS:.0f} s of Gumlet's")


def _token(settings: Settings, webhook: Webhook) -> Finding:
    check = f"webhook {webhook.id}"
    tokens = Tokens.from_settings(settings)
    if tokens.authentication_disabled:
        return Finding(check, "warning", f"{webhook.url}: the bridge requires no token", "BRIDGE_TOKENS")
    if webhook.token is None or not tokens.accepts(webhook.token.get_secret_value()):
        fix = f"`gumlet-bridge webhooks update {webhook.id} --token`"
        return Finding(check, "failed", f"{webhook.url}: sends a token that the bridge rejects (401)", fix)
    return Finding(check, "ok", f"{webhook.url}: sends a token that the bridge accepts")


async def _deliveries(api: GumletApi, webhook: Webhook) -> Finding:
    check = f"deliveries {webhook.id}"
    since = int(time.time() * 1000) - DAY_MS
    latest = [delivery for delivery in await api.history(webhook.id) if delivery.created_ms >= since]
    counts = {
        state: sum(delivery.status == state for delivery in latest) for state in ("success", "retrying", "failed")
    }
    detail = "of the last day: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    if counts["failed"]:
        return Finding(check, "failed", detail, "`gumlet-bridge reconcile --dry-run`: failed ones are not retried")
    if counts["retrying"]:
        return Finding(check, "warning", detail, "see the bridge's log and `gumlet-bridge webhooks history`")
    return Finding(check, "ok", detail)
