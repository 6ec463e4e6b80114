"""The promise, on Apache Kafka: what was answered 200 is on its topic, whatever happens to Kafka or to the bridge.

Every test ends in the same verdict (`checker`). The daemon, the load and Kafka are processes of their own.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.contract.schemas import Contract
from bridge.devtools.load_generator import ATTEMPTS
from tests.support.brokers import ApacheKafka, Broker
from tests.support.daemon import START_SECONDS, TOKEN, Daemon, Load, wait_for
from tests.support.delivery_checker import assert_no_loss, read_all, schema_violations, verify_delivery


def topics(prefix: str) -> list[str]:
    """Return every topic that a bridge with this prefix can publish to."""
    return [topic.name for topic in Contract.load(prefix).topics.values()]


@pytest.fixture
def own_kafka(kafka_libraries: Path, tmp_path: Path) -> Iterator[ApacheKafka]:
    """Give a test a Kafka of its own, not started yet, to do with as it likes."""
    node = ApacheKafka(kafka_libraries, tmp_path / "kafka")
    yield node
    node.stop()


async def test_simulated_life_arrives_whole_valid_and_in_order(broker: Broker, tmp_path: Path, prefix: str) -> None:
    """On either broker: every simulated event is on its topic once, valid by its schema file, in its asset's order."""
    settings: dict[str, object] = {}
    with Daemon(tmp_path, broker.bootstrap_servers, prefix, **settings) as daemon:
        with Load(daemon, tmp_path, count=2000, seed=1) as load:
            report = load.finish()
        wait_for(daemon.drained)
        records = await read_all(broker.bootstrap_servers, topics(prefix))
        verdict = verify_delivery(load.acknowledged(), records)
        assert_no_loss(verdict)
        assert report["acknowledged"] == verdict.acknowledged == verdict.published == 2000
        assert schema_violations(records, Contract.load(prefix)) == []
        assert {record.topic for record in records} >= {f"{prefix}video.status.stream-ready"}
        assert daemon.stop() == 0


async def test_kafka_absent_at_start_and_gone_in_the_middle(
    own_kafka: ApacheKafka, tmp_path: Path, prefix: str
) -> None:
    """Deliveries are acknowledged all along; all are on Kafka when it is back, and the daemon says what it sees."""
    with Daemon(tmp_path, own_kafka.bootstrap_servers, prefix) as daemon:
        with Load(daemon, tmp_path, count=300, seed=2) as early:
            assert early.finish()["rejected"] == {}
        wait_for(lambda: daemon.logged("kafka_disconnected"), what="kafka_disconnected")
        assert daemon.status()["ready"] is True
        own_kafka.start()
        wait_for(daemon.drained, 60)
        assert daemon.logged("kafka_connected")
        with Load(daemon, tmp_path, count=3000, seed=3, rate=600) as late:
            wait_for(lambda: late.acknowledged_so_far() > 500)
            own_kafka.kill()
            wait_for(lambda: late.acknowledged_so_far() > 1500)
            own_kafka.start()
            assert late.finish()["rejected"] == {}
        wait_for(daemon.drained, 60)
        records = await read_all(own_kafka.bootstrap_servers, topics(prefix))
        assert_no_loss(verify_delivery([*early.acknowledged(), *late.acknowledged()], records))
        assert daemon.stop() == 0


async def test_a_stop_while_kafka_is_away_is_prompt_and_loses_nothing(
    apache_kafka: Broker, tmp_path: Path, prefix: str
) -> None:
    """Without Kafka a stop does not wait for it: what was acknowledged is on disk and flows after the next start."""
    with Daemon(tmp_path, "127.0.0.1:1", prefix) as daemon:
        with Load(daemon, tmp_path, count=200, seed=4) as load:
            load.finish()
        wait_for(lambda: daemon.logged("kafka_disconnected"))
        assert daemon.stop() == 0
        assert daemon.logged("drain_incomplete")
        daemon.settings["kafka_bootstrap_servers"] = apache_kafka.bootstrap_servers
        daemon.start()
        wait_for(daemon.drained, 60)
        verdict = verify_delivery(load.acknowledged(), await read_all(apache_kafka.bootstrap_servers, topics(prefix)))
        assert_no_loss(verdict)
        assert verdict.repeated == 0


async def test_sigterm_under_load(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """A stop under load finishes what is in flight, drains, and leaves nothing behind; the rest comes after a start."""
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix) as daemon:
        with Load(daemon, tmp_path, count=4000, seed=5) as load:
            for _ in range(2):
                already = load.acknowledged_so_far()
                wait_for(lambda already=already: load.acknowledged_so_far() > already + 300)
                assert daemon.stop(signal.SIGTERM) == 0
                assert daemon.logged("drained")
                daemon.start()
            load.finish()
        wait_for(daemon.drained, 60)
        verdict = verify_delivery(load.acknowledged(), await read_all(apache_kafka.bootstrap_servers, topics(prefix)))
        assert_no_loss(verdict)


@pytest.mark.long
async def test_kill_nine_ten_times(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """Killed at random moments under load, start-up included, the bridge loses nothing and keeps each asset's order."""
    moments = random.Random(6)
    # A delivery is given up after 48 attempts: they must last for two starts on a busy machine, and each time that the
    # daemon runs must be long enough for an attempt of every delivery.
    retry_after = 2 * START_SECONDS / ATTEMPTS
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix) as daemon:
        with Load(daemon, tmp_path, count=8000, seed=6, rate=500, **{"retry-after": retry_after}) as load:
            for round_ in range(10):
                time.sleep(retry_after + moments.uniform(0.05, 0.6))
                daemon.kill()
                if round_ % 3 == 2:  # and once more while it starts
                    process = daemon.spawn()
                    time.sleep(moments.uniform(0.1, 0.8))
                    process.kill()
                    process.wait()
                daemon.start()
            report = load.finish(180)
        wait_for(daemon.drained, 60)
        verdict = verify_delivery(load.acknowledged(), await read_all(apache_kafka.bootstrap_servers, topics(prefix)))
        assert_no_loss(verdict)
        assert report["acknowledged"] == 8000
        assert report["connection_errors"] > 0, "no kill met the load: the test proves nothing"


async def test_a_topic_that_refuses_parks_its_own_events(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """With one topic missing the others flow; when it is made its events follow, in order, and none is lost."""
    missing = f"{prefix}video.status.ready"
    admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 3, 1) for name in topics(prefix) if name != missing])
        with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, topics_provision="off") as daemon:
            with Load(daemon, tmp_path, count=500, seed=7) as load:
                load.finish()
            parked = sum(1 for each in load.acknowledged() if each["type"] == "video.status.ready")
            wait_for(lambda: daemon.status()["journal"]["parked"] == {missing: parked}, 60, "parking")
            wait_for(lambda: daemon.status()["journal"]["deliveries"] == parked, 60, "the others' flow")
            daemon.kill()  # what is parked outlives the process
            daemon.start()
            assert daemon.status()["journal"]["parked"] == {missing: parked}
            await admin.create_topics([NewTopic(missing, 3, 1)])
            wait_for(daemon.drained, 60)
            wait_for(lambda: daemon.logged("topic_unblocked"), what="topic_unblocked")
            with Load(daemon, tmp_path, count=100, seed=8) as more:
                more.finish()
            wait_for(daemon.drained, 60)
        records = await read_all(apache_kafka.bootstrap_servers, topics(prefix))
        assert_no_loss(verify_delivery([*load.acknowledged(), *more.acknowledged()], records))
    finally:
        await admin.close()


async def test_an_event_that_kafka_never_takes_is_a_dead_letter(
    apache_kafka: Broker, tmp_path: Path, prefix: str
) -> None:
    """A record too large for its topic goes to the dead letters with the reason; those sent with it arrive."""
    small = f"{prefix}unrecognized"
    admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics(
        [
            NewTopic(name, 1, 1, topic_configs={"max.message.bytes": "2000"} if name == small else {})
            for name in topics(prefix)
        ]
    )
    await admin.close()
    with Daemon(tmp_path, "127.0.0.1:1", prefix, topics_provision="off") as daemon:
        for number in range(20):  # first on disk, so that they are sent together
            filler = "x" * (5000 if number == 7 else 10)
            assert daemon.post(f'{{"n": {number}, "filler": "{filler}"}}'.encode()).status == 200
        daemon.stop()
        daemon.settings["kafka_bootstrap_servers"] = apache_kafka.bootstrap_servers
        daemon.start()
        wait_for(daemon.drained, 60)
    arrived = await read_all(apache_kafka.bootstrap_servers, [small])
    assert [record.value[record.value.index(b'"n":') + 4 :].split(b"}")[0] for record in arrived] == [
        str(number).encode() for number in range(20) if number != 7
    ]
    (dead,) = await read_all(apache_kafka.bootstrap_servers, [f"{prefix}dead-letter"])
    assert b'"reason":"record_too_large"' in dead.value


async def test_ack_kafka_answers_only_when_kafka_has_it(own_kafka: ApacheKafka, tmp_path: Path, prefix: str) -> None:
    """With `ack = kafka` a 200 is a record on Kafka; without Kafka the answer is 503 within the bound, never 200."""
    own_kafka.start()
    settings = {"ack": "kafka", "ack_timeout_seconds": 3, "journal_dir": None}
    with Daemon(tmp_path, own_kafka.bootstrap_servers, prefix, **settings) as daemon:
        with Load(daemon, tmp_path, count=500, seed=9) as load:
            load.finish()
        verdict = verify_delivery(load.acknowledged(), await read_all(own_kafka.bootstrap_servers, topics(prefix)))
        assert_no_loss(verdict)
        assert verdict.acknowledged == 500
        own_kafka.freeze()
        answer = daemon.post(b"{}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        own_kafka.thaw()
        wait_for(lambda: daemon.post(b'{"n": 2}').status == 200, 60)
        assert daemon.stop() == 0
    assert not (tmp_path / "journal").exists()


def test_no_secret_in_the_log(apache_kafka: Broker, tmp_path: Path, prefix: str) -> None:
    """Neither a token nor a body is ever logged."""
    with Daemon(tmp_path, apache_kafka.bootstrap_servers, prefix, log_level="debug") as daemon:
        daemon.post(b'{"type": "video.status.ready", "secret-of-the-body": 1}')
        daemon.post(b"{}", token="another-secret")
        wait_for(daemon.drained, 60)
        daemon.stop()
    for secret in (TOKEN, "another-secret", "secret-of-the-body"):
        assert secret not in daemon.log()
