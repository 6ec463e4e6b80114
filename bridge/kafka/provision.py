"""What the daemon does about its topics at start, as `topics.provision` says; what exists it never changes."""

from __future__ import annotations

import structlog

from bridge.config.settings import Settings
from bridge.contract.schemas import Contract
from bridge.errors import TopicMismatchError
from bridge.kafka.client import admin_client
from bridge.kafka.topics import apply, survey

_log = structlog.stdlib.get_logger()


async def provision(settings: Settings, contract: Contract) -> None:
    """Do at start what `topics.provision` says; a topic that exists is never changed.

    `create`: make what is missing; log a warning for each difference and each refusal, and go on: a topic that refuses
    holds up its own events only. `verify`: raise TopicMismatchError with every difference and its fix. `off`: nothing.
    Raises KafkaError or TimeoutError when Kafka does not answer: the caller tries again.
    """
    mode = settings.topics.provision
    if mode == "off":
        return
    async with admin_client(settings.kafka) as admin:
        findings = await survey(admin, contract, settings.topics)
        if mode == "verify":
            if findings:
                raise TopicMismatchError("\n".join(map(str, findings)))
            return
        missing = [finding for finding in findings if finding.kind == "missing"]
        refusals = await apply(admin, contract, settings.topics, missing)
    refused = {refusal.topic for refusal in refusals}
    if made := [finding.topic for finding in missing if finding.topic not in refused]:
        _log.info("topics_created", topics=made)
    for refusal in refusals:
        _log.warning("topic_create_rejected", **refusal._asdict())
    for finding in findings:
        if finding.kind != "missing":
            _log.warning("topic_mismatch", **finding._asdict())
