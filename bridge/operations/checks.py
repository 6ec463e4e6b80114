"""The checks of `gumlet-bridge doctor`: journal, tokens, Kafka and its topics, the schema registry, the running daemon.

Input: settings and contract. Output: a Finding for each check, with the cause and the next step.
Invariants: nothing is changed, on disk, on Kafka or in the daemon; no check raises or hides another; no secret is in a
finding. The checks of Gumlet's side are in `webhook_checks`.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import aiohttp

from bridge.errors import BridgeError, split_fix
from bridge.ingress.tokens import Tokens
from bridge.kafka.client import describe_error
from bridge.kafka.connection import kafka_client
from bridge.kafka.metadata import topic_state
from bridge.kafka.schema_registry import registry, subject_name
from bridge.kafka.topics import READ_SECONDS, diff_topics
from bridge.operations.journal_reader import has_journal, open_reader
from bridge.operations.topic_reader import translate_kafka_errors
from bridge.telemetry.token_status import NEXT_STEP_EXPIRING, expiry_warning
from bridge.telemetry.units import format_bytes, free_space_fault, join_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge.config.settings import Settings
    from bridge.contract.schemas import Contract
    from bridge.kafka.topics import TopicDifference
    from bridge.operations.journal_reader import JournalReader

STATUS_SECONDS = 3.0
"""Time limit for the running daemon's response."""

Result = Literal["ok", "warning", "failed", "not checked"]


_LOOK_AT = {
    "rejections": "the log lines request_rejected have the sender and the details",
    "dead_letters": "`gumlet-bridge dead-letter list` shows each with its reason",
}


class Finding(NamedTuple):
    """The result of one check; `fix` is empty where nothing needs to be done."""

    check: str
    result: Result
    detail: str
    fix: str = ""


def failure(check: str, error: Exception, fix: str = "") -> Finding:
    """Return an error as a finding; the fix that it names replaces `fix`."""
    detail, named = split_fix(str(error))
    return Finding(check, "failed", detail or type(error).__name__, named or fix)


def check_journal(settings: Settings) -> Finding:
    """Check the journal's directory and read the journal without changing it."""
    directory = settings.journal.dir
    existing = next((path for path in (directory, *directory.absolute().parents) if path.exists()), directory)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Finding("journal", "failed", f"{existing} cannot be written", "BRIDGE_JOURNAL_DIR, or its permissions")
    free = shutil.disk_usage(existing).free
    if free < settings.journal.min_free_bytes:
        detail = free_space_fault(directory, free, settings.journal.min_free_bytes)
        return Finding("journal", "failed", detail, "free disk space, or set BRIDGE_JOURNAL_DIR to another disk")
    pending = 0
    try:
        if has_journal(directory):
            with open_reader(directory) as reader:
                pending = sum(1 for _ in reader.entries())
                damage = _damage(reader)
            if damage is not None:
                return damage
    except BridgeError as error:
        return failure("journal", error)
    if free < settings.journal.max_bytes:
        detail = f"{directory}: {format_bytes(free)} free, less than BRIDGE_JOURNAL_MAX_BYTES"
        return Finding("journal", "warning", detail, "use a larger disk, or lower BRIDGE_JOURNAL_MAX_BYTES")
    return Finding("journal", "ok", f"{directory}: {format_bytes(free)} free, deliveries pending: {pending}")


def _damage(reader: JournalReader) -> Finding | None:
    """Return the damage in the journal that was read, or in its quarantine."""
    if reader.problems:
        lost = sum(problem.lost for problem in reader.problems)
        counts = f"damaged places: {len(reader.problems)}; deliveries lost: {lost}"
        fix = "`gumlet-bridge journal verify` names each place; check the disk; `gumlet-bridge reconcile`"
        return Finding("journal", "failed", f"{counts}; the first: {reader.problems[0]}", fix)
    if quarantined := reader.quarantined():
        detail = f"files of damaged bytes in {quarantined[-1].parent}: {len(quarantined)}"
        return Finding("journal", "warning", detail, "check the disk; then move the files away")
    return None


def check_tokens(settings: Settings) -> list[Finding]:
    """Check the expiry of each token that has one."""
    try:
        tokens = Tokens.from_settings(settings)
    except BridgeError as error:
        return [failure("tokens", error)]
    if tokens.authentication_disabled:
        return [Finding("tokens", "warning", "authentication is disabled", "BRIDGE_TOKENS or BRIDGE_TOKENS_FILE")]
    findings = [
        Finding(f"tokens {status.name}", "warning", warning, NEXT_STEP_EXPIRING)
        for status in tokens.statuses()
        if (warning := expiry_warning(status, time.time())) is not None
    ]
    return findings or [Finding("tokens", "ok", f"{len(tokens.statuses())} valid, none expires within 7 days")]


async def check_kafka(settings: Settings, contract: Contract) -> list[Finding]:
    """Connect to Kafka, compare its topics with the contract, and ask what this user may do."""
    names = [topic.name for topic in contract.topics.values()]
    try:
        with translate_kafka_errors(settings.kafka):
            async with kafka_client(settings.kafka) as client:
                differences = (await diff_topics(client, contract, settings)).differences
                states = await topic_state(client, names, READ_SECONDS)
    except BridgeError as error:
        return [failure("kafka", error)]
    findings = [Finding("kafka", "ok", f"{settings.kafka.bootstrap_servers} responds")]
    findings += topic_findings(differences)
    if not differences:
        findings.append(Finding("topics", "ok", f"all {len(names)} match the contract"))
    unknown = [name for name, state in states.items() if state.writable is None and state.status == "available"]
    if unknown:
        fix = "allow Write on the topics; the log's topic_blocked lines name a missing right"
        findings.append(Finding("access", "not checked", "Kafka does not report this user's rights", fix))
    elif all(state.writable for state in states.values()):
        findings.append(Finding("access", "ok", f"this user may write to all {len(names)} topics"))
    for name, state in states.items():
        if state.status == "no_leader" and state.partitions:  # without partitions it is a difference already
            cause, fix = split_fix(state.detail)
            findings.append(Finding(f"topics {name}", "failed", f"{name} is blocked: {cause}", fix))
    return findings


def topic_findings(differences: Sequence[TopicDifference]) -> list[Finding]:
    """Return one finding for all topics that differ in the same way, in the words of the health model."""
    groups: dict[tuple[bool, str, str], list[str]] = {}
    for found in differences:
        groups.setdefault((found.blocking, found.cause, found.fix), []).append(found.topic)
    findings = []
    for (blocking, cause, fix), topics in groups.items():
        several = len(topics) > 1
        subject = f"{len(topics)} topics" if several else topics[0]
        verb = f" {'are' if several else 'is'} blocked" if blocking else ""
        names = f" ({join_names(sorted(topics))})" if several else ""
        check = f"topics {subject}" if not several else subject
        findings.append(Finding(check, "failed" if blocking else "warning", f"{subject}{verb}: {cause}{names}", fix))
    return findings


async def check_registry(settings: Settings, contract: Contract) -> list[Finding]:
    """Look up every schema, if a schema registry is configured."""
    if settings.registry.url is None:
        return []
    needed = settings.registry.wire_format
    try:
        async with registry(settings.registry) as client:
            found = {subject_name(topic): await client.find(topic) for topic in contract.topics.values()}
    except BridgeError as error:
        return [failure("registry", error)]
    missing = [subject for subject, schema in found.items() if schema is None]
    if missing:
        detail = f"{len(missing)} schemas are not registered; the first is {missing[0]}"
        return [
            Finding(
                "registry", "warning" if needed == "plain" else "failed", detail, "`gumlet-bridge schemas register`"
            )
        ]
    if needed == "header" and any(schema is not None and not schema.guid for schema in found.values()):
        fix = "BRIDGE_REGISTRY_WIRE_FORMAT=confluent, or Confluent's registry 8.0 or later"
        return [Finding("registry", "failed", f"{settings.registry.url} returns no GUIDs", fix)]
    return [Finding("registry", "ok", f"{settings.registry.url} has all schemas")]


async def check_daemon(settings: Settings, found: Sequence[Finding]) -> list[Finding]:
    """Ask the running daemon on this machine for its problems, and for the rejections of the last hour.

    A problem that is in `found` already, in the same words, is not repeated.
    """
    url = f"{settings.admin_url}/status"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STATUS_SECONDS)) as session:
            async with session.get(url) as response:
                response.raise_for_status()
                status = await response.json()
            return _daemon_findings(status, found)
    except aiohttp.ClientConnectorError as error:
        reason = f"no daemon responds at {url}: {os.strerror(error.os_error.errno or 0)}"
        return [Finding("daemon", "not checked", reason, "start the daemon, or set BRIDGE_ADMIN_LISTEN to its address")]
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"no daemon responds at {url} ({describe_error(error)}): its state could not be read"
        return [Finding("daemon", "not checked", detail, "start the daemon, or set BRIDGE_ADMIN_LISTEN to its address")]


def _daemon_findings(status: dict[str, Any], found: Sequence[Finding]) -> list[Finding]:
    """Read the document of /status; its conditions include each topic that has parked deliveries."""
    results: dict[str, Result] = {"failing": "failed", "degraded": "warning"}
    findings = [
        Finding(f"daemon {each['component']}", results[each["state"]], each["cause"], each["next_step"])
        for each in status["health"]
        if each["state"] in results and not any(each["cause"] in other.detail for other in found)
    ]
    known = sum(each["state"] in results for each in status["health"]) - len(findings)
    if parked := {topic: count for topic, count in status["journal"]["parked"].items() if count}:
        detail = "parked deliveries: " + ", ".join(f"{count} for {topic}" for topic, count in parked.items())
        fix = "fix the topics; the deliveries are then published in order"
        findings.append(Finding("daemon parked", "failed", detail, fix))
    for kind in ("rejections", "dead_letters"):
        if counts := {reason: count for reason, count in dict(status["last_hour"][kind]).items() if count}:
            detail = f"{kind.replace('_', ' ')} of the last hour: " + ", ".join(f"{n} {r}" for r, n in counts.items())
            findings.append(Finding(f"daemon {kind}", "warning", detail, _LOOK_AT[kind]))
    if not findings:
        problems = f"it reports the problems above: {known}" if known else "no problem"
        result: Result = "warning" if known else "ok"
        detail = f"version {status['version']}, {'ready' if status['ready'] else 'not ready'}, {problems}"
        findings.append(Finding("daemon", result, detail, "follow their fixes" if known else ""))
    return findings
