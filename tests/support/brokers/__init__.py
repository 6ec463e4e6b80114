"""Brokers for tests: the best Apache Kafka that this machine can have, and a line that says which it was.

In this order: the one that BRIDGE_TEST_BOOTSTRAP_SERVERS names, testcontainers' Kafka where a Docker engine answers,
Kafka's own jars where Java and Maven are. None of them: `apache_kafka()` raises KafkaUnavailableError with every
reason. librdkafka's embedded broker, which is always there, is `bridge.devtools.embedded_broker`.
"""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.brokers.apache import ApacheKafka, KafkaUnavailableError, java, kafka_version, libraries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

__all__ = ["ApacheKafka", "Broker", "KafkaUnavailableError", "apache_kafka", "libraries"]

GIVEN = "BRIDGE_TEST_BOOTSTRAP_SERVERS"


class Broker(NamedTuple):
    """Where a broker is, and what it is in words for the test run's summary.

    `embedded` says that it is librdkafka's: no admin API, topics made by asking for them, no limit of size.
    """

    bootstrap_servers: str
    description: str
    embedded: bool = False


@contextmanager
def apache_kafka(directory: Path) -> Iterator[Broker]:
    """Run the first Apache Kafka that can be had, with its data in `directory`, until the block is left."""
    if given := os.environ.get(GIVEN):
        yield Broker(given, f"Apache Kafka at {given} ({GIVEN})")
        return
    refused: list[str] = []
    try:
        container = _container()
    except KafkaUnavailableError as reason:
        refused.append(str(reason))
    else:
        try:
            yield Broker(container.get_bootstrap_server(), f"Apache Kafka of {container.image} (Docker)")
        finally:
            container.stop()
        return
    try:
        node = ApacheKafka(libraries(), directory)
        node.start()
    except KafkaUnavailableError as reason:
        refused.append(str(reason))
        raise KafkaUnavailableError("; ".join([f"{GIVEN} is not set", *refused])) from reason
    with node:
        yield Broker(node.bootstrap_servers, f"Apache Kafka {kafka_version()} (Java {java()[1]}, from Maven)")


def _container() -> Any:
    """Start testcontainers' Kafka. Raises KafkaUnavailableError when Docker or the image cannot be had."""
    try:
        import docker  # type: ignore[import-untyped] # noqa: PLC0415 - only a machine with the development dependencies has it
    except ImportError:
        raise KafkaUnavailableError("testcontainers is not installed") from None
    if not _engine_answers(docker):
        raise KafkaUnavailableError("no Docker engine answers")
    try:
        from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - its place since 4.15
    except ImportError:
        from testcontainers.kafka import KafkaContainer  # noqa: PLC0415
    container = KafkaContainer().with_kraft().with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    try:
        return container.start()
    except Exception as error:  # noqa: BLE001 - whatever Docker says, the next kind of broker is tried
        container.stop()
        raise KafkaUnavailableError(f"testcontainers' Kafka did not start: {error}") from None


def _engine_answers(docker: ModuleType) -> bool:
    # docker-py leaves its socket to the garbage collector when no engine answers: collected here, where the
    # warning is expected, and not in the middle of somebody's test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env(timeout=5).close()
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()
    return True
