"""The checks of `doctor` that need neither Kafka nor a daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bridge.config.settings import Settings
from bridge.kafka.topics import TopicDifference
from bridge.operations.checks import check_daemon, check_journal, check_tokens, topic_findings
from bridge.queue.journal import Journal
from bridge.telemetry.metrics import Metrics
from tests.support.brokers.apache import free_port
from tests.support.journal import flip, segments
from tests.unit.queue.journals import delivery, fill

if TYPE_CHECKING:
    from pathlib import Path


def settings_of(directory: Path, **changes: object) -> Settings:
    """Return settings with this journal and little need of disk."""
    journal = {"dir": directory, "min_free_bytes": 0, "max_bytes": 1 << 20}
    return Settings.model_validate({"tokens": "a-token-of-the-test", "journal": journal, **changes})


async def test_damage_in_the_journal_fails_the_check_before_the_daemon_reads_it(tmp_path: Path) -> None:
    """`doctor` is not green where `journal verify` finds lost deliveries; the place is in the detail."""
    await fill(tmp_path, 5)
    assert check_journal(settings_of(tmp_path)).result == "ok"
    (segment,) = segments(tmp_path)
    flip(segment, segment.read_bytes().index(delivery(2).body))
    found = check_journal(settings_of(tmp_path))
    assert found.result == "failed"
    assert "deliveries lost: 1" in found.detail
    assert str(segment) in found.detail
    assert "journal verify" in found.fix


async def test_a_daemon_without_a_delivery_yet_has_no_fault(tmp_path: Path) -> None:
    """The journal is created with the first delivery: its directory with only the lock is not a failed check."""
    async with Journal.open(settings_of(tmp_path).journal, Metrics()):
        found = check_journal(settings_of(tmp_path))
    assert (found.result, found.fix) == ("ok", "")
    assert "deliveries pending: 0" in found.detail


def test_a_full_disk_is_reported_with_its_directory_and_both_sizes(tmp_path: Path) -> None:
    """The text names the directory, the free space and the setting as it is written in the environment."""
    found = check_journal(settings_of(tmp_path, journal={"dir": tmp_path, "min_free_bytes": 1 << 60}))
    assert found.result == "failed"
    assert str(tmp_path) in found.detail
    assert "1.0 EiB (BRIDGE_JOURNAL_MIN_FREE_BYTES)" in found.detail


def test_a_token_that_expires_within_a_day_is_not_rounded_to_nothing(tmp_path: Path) -> None:
    """`expires in 0.0 days` is not an answer."""
    file = tmp_path / "tokens"
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    file.write_text(f"a-token-of-the-test name=gumlet expires={end}")
    (found,) = check_tokens(settings_of(tmp_path, tokens="", tokens_file=file))
    assert found.result == "warning"
    assert "expires in 10 minutes" in found.detail
    assert "BRIDGE_TOKENS_FILE" in found.fix


def test_topics_with_the_same_difference_are_one_finding() -> None:
    """Thirty missing topics are one line with their number, and a topic that differs otherwise has its own."""
    missing = [
        TopicDifference(
            "missing", f"gumlet.{number:02}", "topic", "available", "the topic does not exist", "apply", blocking=True
        )
        for number in range(30)
    ]
    other = TopicDifference("config", "gumlet.x", "retention.ms", "1", "2", "configure")
    first, second = topic_findings([*missing, other])
    assert (first.check, first.result, first.fix) == ("30 topics", "failed", "apply")
    names = "gumlet.00, gumlet.01, gumlet.02 and 27 more"
    assert first.detail == f"30 topics are blocked: the topic does not exist ({names})"
    assert (second.check, second.result) == ("topics gumlet.x", "warning")


async def test_a_daemon_that_does_not_run_is_reported_without_pythons_words(tmp_path: Path) -> None:
    """The address and the reason, and nothing of the library's exception."""
    address = f"127.0.0.1:{free_port()}"
    (found,) = await check_daemon(settings_of(tmp_path, admin_listen=address), [])
    assert found.detail == f"no daemon responds at http://{address}/status: Connection refused"
