"""Metrics and recent activity: duplicates, bounded labels, known labels with 0, no exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

import orjson
from prometheus_client import Metric
from structlog.testing import capture_logs

import bridge
from bridge.event import Event, content_id
from bridge.telemetry.collectors import MAX_SOURCES
from bridge.telemetry.duplicate_counter import DuplicateCounter
from bridge.telemetry.metrics import DEAD_LETTER_TYPE, Metrics
from bridge.telemetry.reasons import DEAD_LETTERS, OTHER, REJECTIONS
from bridge.telemetry.recent_activity import MAX_COMMITS, MAX_ENTRIES, RecentActivity, RecordOffset

NOW_MS = 1_764_000_000_000


def event(
    number: int = 1, event_type: str = "video.status.created", created_at: str | None = None, received_ms: int = NOW_MS
) -> Event:
    """Return an event that differs from others by its number."""
    record = {"type": event_type} if created_at is None else {"type": event_type, "created_at": created_at}
    identity = content_id("default", b"%d" % number)
    return Event("gumlet." + event_type, b"asset", orjson.dumps(record), [], received_ms, event_type, identity)


def family(metrics: Metrics, name: str) -> Metric:
    """Return one of the metrics as it is exposed."""
    return next(each for each in metrics.registry.collect() if each.name == name)


def value(metrics: Metrics, name: str, sample: str) -> float:
    """Return the value of a sample without labels."""
    return next(each.value for each in family(metrics, name).samples if each.name == sample and not each.labels)


def test_a_duplicate_is_counted_in_the_same_batch_and_in_a_later_one() -> None:
    """An id that was published before is counted each time that it comes again, others are not."""
    metrics = Metrics()
    metrics.record_published([event(1), event(2), event(1)], NOW_MS)
    metrics.record_published([event(3), event(2)], NOW_MS)
    assert value(metrics, "bridge_duplicate_records", "bridge_duplicate_records_total") == 2


def test_duplicate_counter_recognizes_ids_as_far_back_as_documented() -> None:
    """Nine ids of ten are known after 14,000 others, half of them after 90,000; what is new is never known."""
    counter = DuplicateCounter()
    ids = [content_id("default", b"%d" % number) for number in range(104_000)]
    assert counter.count_duplicates(ids[:1000]) == 0
    assert counter.count_duplicates(ids[1000:14_000]) == 0
    assert counter.count_duplicates(ids[:1000]) in range(860, 1000)
    assert counter.count_duplicates(ids[14_000:]) == 0
    assert counter.count_duplicates(ids[:1000]) in range(400, 600)


def test_recent_events_have_their_latencies_and_offsets() -> None:
    """Each of the last few has its place on Kafka, the time to its commit, and the time to Kafka."""
    recent = RecentActivity()
    recent.record_commit(NOW_MS, NOW_MS + 4, NOW_MS + 7)
    recent.record_commit(NOW_MS + 5, NOW_MS + 9, NOW_MS + 12)
    recent.record_published(
        [event(1, received_ms=NOW_MS + 2), event(2, received_ms=NOW_MS + 5)],
        [RecordOffset(3, 17), RecordOffset(0, None)],
        NOW_MS + 40,
    )
    newest, older = recent.snapshot()["published"]
    assert (older["type"], older["topic"]) == ("video.status.created", "gumlet.video.status.created")
    assert (older["partition"], older["offset"]) == (3, 17)
    assert (older["acknowledge_seconds"], older["publish_seconds"]) == (0.005, 0.038)
    assert (newest["partition"], newest["offset"], newest["acknowledge_seconds"]) == (0, None, 0.007)


def test_acknowledge_time_is_unknown_once_its_commit_is_no_longer_kept() -> None:
    """A delivery from before the restart, or from too many commits ago, has none; the memory is bounded."""
    recent = RecentActivity()
    recent.record_published([event(received_ms=NOW_MS)], [RecordOffset(0, 0)], NOW_MS + 1)
    for number in range(MAX_COMMITS + 1):
        recent.record_commit(NOW_MS + number, NOW_MS + number, NOW_MS + number + 3)
    recent.record_published([event(received_ms=NOW_MS)], [RecordOffset(0, 1)], NOW_MS + 900)
    recent.record_published([event(received_ms=NOW_MS + 1)], [RecordOffset(0, 2)], NOW_MS + 900)
    assert [each["acknowledge_seconds"] for each in recent.snapshot()["published"]] == [0.003, None, None]
    recent.record_published(
        [event(number) for number in range(3 * MAX_ENTRIES)], [RecordOffset(0, 0)] * 3 * MAX_ENTRIES, NOW_MS
    )
    assert len(recent.snapshot()["published"]) == MAX_ENTRIES


def test_known_label_values_are_exposed_with_zero_from_the_start() -> None:
    """`increase()` sees the first failure of each kind only if the series existed before it."""
    metrics = Metrics()
    metrics.initialize(["default", "films"], ["gumlet.video.status.ready"])
    text = metrics.render().decode()
    for reason, status in REJECTIONS.items():
        assert f'bridge_http_requests_rejected_total{{reason="{reason}",status="{status}"}} 0.0' in text
    for reason in DEAD_LETTERS:
        assert f'bridge_dead_letters_total{{reason="{reason}"}} 0.0' in text
    assert 'bridge_http_requests_total{source="films",status="200"} 0.0' in text
    assert 'bridge_kafka_records_published_total{topic="gumlet.video.status.ready"} 0.0' in text


def test_sources_that_a_sender_chooses_are_bounded() -> None:
    """After a hundred names further ones are counted as `other`: neither memory nor labels grow."""
    metrics = Metrics()
    for number in range(10 * MAX_SOURCES):
        metrics.record_acknowledgement(f"source-{number}", 10, 0.001)
        metrics.record_rejection(f"source-{number}", 413, "body_too_large")
    samples = family(metrics, "bridge_http_requests").samples
    assert len({sample.labels["source"] for sample in samples}) == MAX_SOURCES + 1
    assert sum(sample.value for sample in samples) == 20 * MAX_SOURCES
    other = {sample.labels["status"]: sample.value for sample in samples if sample.labels["source"] == OTHER}
    assert other == {"200": 9 * MAX_SOURCES, "413": 9 * MAX_SOURCES}


def test_reasons_outside_the_closed_set_are_counted_as_other() -> None:
    """A reason is a label value only if it is listed."""
    metrics = Metrics()
    metrics.record_rejection("default", 418, "teapot")
    text = metrics.render().decode()
    assert 'bridge_http_requests_rejected_total{reason="other",status="418"} 1.0' in text
    assert "teapot" not in text


def test_every_reason_in_the_code_is_in_the_closed_set() -> None:
    """A reason that the ingress or the queue uses must be listed in bridge/telemetry/reasons.py, with its status."""
    root = Path(bridge.__file__).parent
    used: set[str] = set()
    for path in (*root.glob("ingress/*.py"), *root.glob("queue/*.py"), *root.glob("admin/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                position = {"DeliveryRejected": 0, "Answer": 1}.get(node.func.id)
                if position is not None and len(node.args) > position:
                    argument = node.args[position]
                    if isinstance(argument, ast.Constant):
                        used.add(str(argument.value))
    assert used
    assert used - set(REJECTIONS) == set()


def test_measuring_never_raises() -> None:
    """A record that cannot be decoded, or a list of offsets of another length, costs a figure and nothing else."""
    metrics, recent = Metrics(), RecentActivity()
    broken = event(1, DEAD_LETTER_TYPE)._replace(value=b"not JSON")
    with capture_logs() as logs:
        metrics.record_published([broken, event(2)], NOW_MS)
        metrics.record_published([broken], NOW_MS)
        recent.record_published([event(1)], [], NOW_MS)
    assert value(metrics, "bridge_publish_latency_seconds", "bridge_publish_latency_seconds_count") == 3
    assert {line["event"] for line in logs} <= {"measurement_failed"}
    assert len(logs) <= 2


def test_recent_activity_is_bounded_in_characters() -> None:
    """A sender chooses the asset id and with it the key, and provokes the detail of a dead letter."""
    recent = RecentActivity()
    recent.record_published([event()._replace(key=b"k" * 400_000)], [RecordOffset(0, 0)], NOW_MS)
    recent.record_dead_letter(event(), "invalid_json", "d" * 400_000)
    assert len(str(recent.snapshot())) < 2000
