"""The health model: states, their start, order, and checks that fail."""

from __future__ import annotations

from structlog.testing import capture_logs

from bridge.telemetry.health import Finding, Health


def test_since_changes_only_with_the_state() -> None:
    """A new cause of the same state keeps its start; the next state has its own."""
    health = Health()
    health.report("kafka", "failing", "first", "do")
    (first,) = health.conditions()
    health.report("kafka", "failing", "second", "do")
    (second,) = health.conditions()
    assert (second.since, second.cause) == (first.since, "second")
    health.report("kafka", "ok")
    (third,) = health.conditions()
    assert (third.state, third.cause, third.next_step) == ("ok", "", "")
    assert third.since >= first.since


def test_blocked_topic_comes_first_then_failing_then_degraded_components() -> None:
    """The page, /readyz and doctor say the most important problem first."""
    health = Health()
    health.report("drift", "degraded", "d", "n")
    health.report("kafka", "failing", "k", "n")
    health.report("journal", "ok")
    health.report("topic gumlet.a", "failing", "blocked", "n")
    assert [each.component for each in health.conditions()] == ["topic gumlet.a", "kafka", "drift", "journal"]
    assert [each.component for each in health.problems()] == ["topic gumlet.a", "kafka", "drift"]
    health.clear("topic gumlet.a")
    assert [each.component for each in health.problems()] == ["kafka", "drift"]


def test_topics_that_are_blocked_for_one_cause_are_one_condition_behind_kafkas() -> None:
    """Thirty topics that a user may not write to do not hide that Kafka allows it nothing."""
    health = Health()
    for number in range(30):
        topic = f"gumlet.{number:02}"
        health.report(f"topic {topic}", "failing", f"{topic} is blocked: no subject {topic}-value", "register")
    health.report("topic gumlet.x", "failing", "gumlet.x is blocked: the topic does not exist", "create")
    health.report("kafka", "failing", "Kafka allows user 'bridge' nothing", "allow")
    health.report("publisher", "failing", "nothing was published", "do")
    problems = health.problems()
    assert [each.component for each in problems] == ["topic gumlet.x", "kafka", "30 topics", "publisher"]
    names = "gumlet.00, gumlet.01, gumlet.02 and 27 more"
    assert problems[2].cause == f"30 topics are blocked: no subject TOPIC-value ({names})"
    assert len(health.conditions()) == 33  # the metric has each


def test_a_check_logs_each_change_once() -> None:
    """A condition that is evaluated each second does not fill the log."""
    health, findings = Health(), [None, Finding("failing", "full", "make room"), None]
    health.add_check("journal", lambda: findings[0])
    with capture_logs() as logs:
        for _ in range(3):
            for _ in range(3):
                health.conditions()
            findings.pop(0) if len(findings) > 1 else None
    changes = [(line["component"], line["state"], line["detail"]) for line in logs if line["event"] == "health_changed"]
    assert changes == [("journal", "failing", "full"), ("journal", "ok", "")]


def test_a_check_logs_a_changed_cause_but_not_a_changed_number() -> None:
    """The log names the cause that the page shows, and a cause that counts does not fill it."""
    causes = ["1 is damaged", "2 is damaged", "2 is damaged; 1 is lost"]
    health = Health()
    health.add_check("journal", lambda: Finding("degraded", causes[0], "look"))
    with capture_logs() as logs:
        while len(causes) > 1:
            health.conditions()
            del causes[0]
        health.conditions()
    assert [line["detail"] for line in logs] == ["1 is damaged", "2 is damaged; 1 is lost"]


def test_a_check_that_raises_is_a_degraded_component_and_hides_no_other() -> None:
    """The health of the others stays visible."""

    def broken() -> Finding | None:
        raise OSError("no disk")

    health = Health()
    health.add_check("journal", broken)
    health.report("kafka", "ok")
    assert [(each.component, each.state) for each in health.conditions()] == [("journal", "degraded"), ("kafka", "ok")]
    assert "no disk" in health.problems()[0].cause


def test_a_condition_is_one_line_with_its_next_step() -> None:
    """Text outputs use the same words as the page."""
    health = Health()
    health.report("kafka", "failing", "b:9092 does not answer", "check the brokers")
    assert str(health.problems()[0]) == "kafka: failing: b:9092 does not answer. Fix: check the brokers"


def test_a_cause_is_bounded() -> None:
    """A broker's or a registry's message may have any length."""
    health = Health()
    health.report("registry", "failing", "x" * 100_000, "")
    assert len(health.conditions()[0].cause) <= 500
