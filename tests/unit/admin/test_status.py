"""What the status, the health checks and /readyz say, for each fault that the daemon can see in itself."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest

from bridge.admin.status import RECENT_MINUTES, Status, StatusInputs
from bridge.config.settings import Settings
from bridge.errors import DeliveryRejected
from bridge.event import Delivery, Event
from bridge.queue.memory import MemoryQueue
from bridge.telemetry.health import Health
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.token_status import TokenStatus

DAY = 86400


class Queue(MemoryQueue):
    """A queue whose state the test sets."""

    rejection: DeliveryRejected | None = None
    pending_since: float | None = None
    parked_topics: dict[str, int]

    def check_capacity(self, size: int) -> DeliveryRejected | None:
        """Return the rejection that the test set."""
        del size
        return self.rejection

    @property
    def oldest_pending_ms(self) -> int | None:
        """Return the time that the test set."""
        return None if self.pending_since is None else int(self.pending_since * 1000)

    @property
    def parked(self) -> dict[str, int]:
        """Return the topics that the test set."""
        return self.parked_topics


class Scene:
    """A status with all its sources under the test's control."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.queue = Queue(self.settings.queue, 1.0)
        self.queue.parked_topics = {}
        self.metrics, self.health = Metrics(), Health()
        self.connected = True
        self.drift: list[dict[str, Any]] = []
        self.tokens: list[TokenStatus] | None = [TokenStatus("gumlet", None, None)]
        tokens = None if settings.get("allow_unauthenticated") else lambda: list(self.tokens or [])
        sources = StatusInputs(lambda: self.connected, lambda: self.drift, tokens)
        self.status = Status(self.settings, self.queue, self.metrics, self.health, sources)

    def sample(self, count: int = 1) -> None:
        """Let the daemon sample so many seconds."""
        for _ in range(count):
            self.now += 1
            self.status.history.sample(self.now, 0, self.metrics.totals(), self.queue.depth)

    now = 0.0

    def problem(self) -> tuple[str, str, str]:
        """Return component, state and cause of the only problem."""
        (condition,) = self.health.problems()
        assert condition.next_step
        return condition.component, condition.state, condition.cause


@pytest.fixture
def scene() -> Scene:
    """Return a daemon in which nothing is wrong."""
    return Scene()


def test_everything_is_ok_while_nothing_is_wrong(scene: Scene) -> None:
    """Each component is listed as ok, with nothing to do."""
    conditions = {each.component: each.state for each in scene.health.conditions()}
    assert conditions == dict.fromkeys(("journal", "ingress", "tokens", "publisher", "schema drift"), "ok")
    assert scene.status.to_json()["state"] == "ok"


@pytest.mark.parametrize("reason", ["queue_full", "journal_full", "disk_full", "journal_unavailable"])
def test_a_queue_that_rejects_is_failing_for_its_reason(scene: Scene, reason: str) -> None:
    """The cause names the reason that the 503 carries, /status says not ready."""
    scene.queue.rejection = DeliveryRejected(reason, "the details")
    assert scene.problem() == ("journal", "failing", f"deliveries are rejected with 503: {reason}: the details")
    assert (scene.status.to_json()["ready"], scene.status.to_json()["not_ready_reason"]) == (False, reason)


def test_without_kafka_and_ack_kafka_the_ingress_is_failing() -> None:
    """With ack = kafka an unreachable Kafka rejects every delivery."""
    scene = Scene(ack="kafka")
    scene.connected = False
    assert scene.problem()[:2] == ("ingress", "failing")
    assert scene.status.to_json()["not_ready_reason"] == "kafka_unreachable"


def test_no_valid_token_is_failing_and_an_expiry_within_seven_days_is_degraded(scene: Scene) -> None:
    """Tokens that expire cannot fail in silence; an expired one next to a valid one is not a problem."""
    now = time.time()
    scene.tokens = [TokenStatus("old", now - 1, None), TokenStatus("new", now + 8 * DAY, None)]
    assert scene.health.problems() == []
    scene.tokens = [TokenStatus("new", now + 6.5 * DAY, None)]
    assert scene.problem() == ("tokens", "degraded", "the token new expires in 6 days")
    scene.tokens = [TokenStatus("old", now - 1, None)]
    assert scene.problem() == ("tokens", "failing", "every token has expired: deliveries get 401")


def test_disabled_authentication_is_degraded() -> None:
    """An open port stays visible."""
    assert Scene(allow_unauthenticated=True).problem()[:2] == ("tokens", "degraded")


def test_pending_deliveries_without_a_publication_are_failing(scene: Scene) -> None:
    """No green screen while nothing is published; a backlog that drains is degraded."""
    scene.queue.pending_since = time.time() - 59
    assert scene.health.problems() == []
    scene.queue.pending_since = time.time() - 3600
    scene.sample(70)
    component, state, cause = scene.problem()
    assert (component, state) == ("publisher", "failing")
    assert "nothing was published" in cause
    scene.metrics.record_published([Event("t", b"k", b"{}", [], 0, "video.status.ready", "id")], 1.0)
    scene.sample()
    assert scene.problem()[:2] == ("publisher", "degraded")


async def test_parked_deliveries_count_for_the_oldest_pending_age(scene: Scene) -> None:
    """A blocked topic is visible in the age even while everything else is published."""
    scene.queue.parked_topics = {"gumlet.a": 3}
    received_ms = int((time.time() - 500) * 1000)

    async def read_parked(topic: str, limit: int) -> list[Any]:
        assert (topic, limit) == ("gumlet.a", 1)
        return [type("Parked", (), {"delivery": Delivery(received_ms, "default", b"{}")})]

    with patch.object(scene.queue, "read_parked", read_parked):
        await scene.status.sample()
    assert 499 < scene.status.oldest_pending_seconds() < 600
    assert scene.metrics.registry.get_sample_value("bridge_parked_deliveries", {"topic": "gumlet.a"}) == 3
    scene.queue.parked_topics = {}
    assert scene.status.oldest_pending_seconds() == 0.0


async def test_topics_that_were_parked_before_a_restart_are_a_problem_before_kafka_is_reached(scene: Scene) -> None:
    """The publisher reports blocked topics only once it is connected; until then the parked deliveries do."""
    scene.queue.parked_topics = {"gumlet.a": 3}
    await scene.status.sample()
    component, state, cause = scene.problem()
    assert (component, state) == ("topic gumlet.a", "failing")
    assert "3 deliveries" in cause


@pytest.mark.parametrize("reason", ["invalid_token", "missing_token"])
def test_recent_rejections_that_may_be_gumlets_degrade_the_ingress(scene: Scene, reason: str) -> None:
    """Wrong and missing tokens are reported for some minutes; a stranger's wrong path is not."""
    scene.sample()
    scene.metrics.record_rejection("default", 404, "unknown_path")
    scene.sample()
    assert scene.health.problems() == []
    scene.metrics.record_rejection("default", 401, reason)
    scene.sample()
    assert scene.problem() == ("ingress", "degraded", f"requests rejected in the last 5 minutes: 1 {reason}")
    scene.sample(60 * (RECENT_MINUTES + 2))
    assert scene.health.problems() == []
    assert scene.status.to_json()["last_hour"]["rejections"] == {"unknown_path": 1, reason: 1}


def test_rejections_that_another_condition_explains_are_not_a_second_problem(scene: Scene) -> None:
    """While the disk is full or every token has expired, one condition has the cause; afterwards nothing is to do."""
    scene.sample()
    scene.metrics.record_rejection("default", 503, "disk_full")
    scene.queue.rejection = DeliveryRejected("disk_full", "the details")
    scene.sample()
    assert scene.problem()[0] == "journal"
    scene.queue.rejection = None
    (condition,) = scene.health.problems()
    assert "accepted again" in condition.cause
    assert condition.next_step.startswith("none")
    scene.sample(60 * (RECENT_MINUTES + 2))
    scene.metrics.record_rejection("default", 401, "invalid_token")
    scene.tokens = [TokenStatus("old", time.time() - 1, None)]
    scene.sample()
    assert scene.problem()[0] == "tokens"


def test_a_stalled_publisher_names_the_conditions_that_explain_it(scene: Scene) -> None:
    """The next step is that of the cause, which comes first; without one, it is the log."""
    scene.queue.pending_since = time.time() - 3600
    scene.sample(70)
    assert "read the log" in scene.health.problems()[0].next_step
    scene.health.report("kafka", "failing", "no connection", "start Kafka")
    for topic in ("gumlet.a", "gumlet.b"):
        scene.health.report(f"topic {topic}", "failing", f"{topic} is blocked: it does not exist", "create it")
    kafka, topics, publisher = scene.health.problems()
    assert (kafka.component, topics.component, publisher.component) == ("kafka", "2 topics", "publisher")
    assert "the next step of the blocked topics, kafka;" in publisher.next_step


def test_pending_deliveries_from_before_a_restart_are_no_problem_at_once(scene: Scene) -> None:
    """A daemon that has just started cannot know that nothing is published."""
    scene.queue.pending_since = time.time() - 3600
    scene.sample(30)
    assert scene.health.problems() == []


def test_a_segment_that_was_given_up_degrades_the_journal(scene: Scene) -> None:
    """A removed file or a failed write is visible before the publisher reads the place."""
    scene.metrics.record_abandoned_segments(1)
    component, state, cause = scene.problem()
    assert (component, state) == ("journal", "degraded")
    assert "segments given up after a failed write or a removed file: 1" in cause


def test_drift_and_corruption_are_degraded(scene: Scene) -> None:
    """Both need attention, neither stops anything."""
    scene.drift = [{"kind": "new_type"}]
    scene.metrics.journal_damaged.inc()
    scene.metrics.journal_missing.inc(7)
    assert {(each.component, each.state) for each in scene.health.problems()} == {
        ("schema drift", "degraded"),
        ("journal", "degraded"),
    }
    journal = scene.status.to_json()["journal"]
    assert (journal["corruptions"], journal["lost_deliveries"]) == (1, 7)


def test_component_states_are_metrics(scene: Scene) -> None:
    """An alert can fire on any component."""
    scene.tokens = []
    state = scene.metrics.registry.get_sample_value
    assert state("bridge_component_state", {"component": "tokens"}) == 2
    assert state("bridge_component_state", {"component": "journal"}) == 0
