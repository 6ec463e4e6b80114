"""Brokers for tests: the first Apache Kafka that is available on this machine.

In this order: the one that BRIDGE_TEST_BOOTSTRAP_SERVERS names, testcontainers' Kafka if a Docker engine responds,
Kafka's published jars if Java and Maven are installed. Otherwise `apache_kafka()` raises KafkaUnavailableError with all
reasons. librdkafka's embedded broker, which is always available, is `bridge.devtools.embedded_broker`.
"""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.brokers.apache import ApacheKafka, KafkaUnavailableError, java, kafka_version, libraries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

__all__ = ["EMBEDDED_IS_LONG", "ApacheKafka", "Broker", "KafkaUnavailableError", "apache_kafka", "libraries"]

GIVEN = "BRIDGE_TEST_BOOTSTRAP_SERVERS"
EMBEDDED_IS_LONG = pytest.mark.parametrize(
    "broker", ["apache_kafka", pytest.param("embedded_broker", marks=pytest.mark.long)], indirect=True
)
"""For a slow test in which the kind of broker matters little: on the embedded broker only `make test-all` runs it."""


class Broker(NamedTuple):
    """A broker's address, and its description for the test run's summary.

    `embedded`: librdkafka's, which has no admin API, creates topics on first use and has no limit of the record size.
    """

    bootstrap_servers: str
    description: str
    embedded: bool = False


@contextmanager
def apache_kafka(directory: Path) -> Iterator[Broker]:
    """Run the first Apache Kafka that is available, with its data in `directory`, until the block is left."""
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
        node = ApacheKafka(libraries(), directory, archives_classes=True)
        node.start()
    except KafkaUnavailableError as reason:
        refused.append(str(reason))
        raise KafkaUnavailableError("; ".join([f"{GIVEN} is not set", *refused])) from reason
    with node:
        yield Broker(node.bootstrap_servers, f"Apache Kafka {kafka_version()} (Java {java()[1]}, from Maven)")


def _container() -> Any:
    """Start testcontainers' Kafka. Raises KafkaUnavailableError when Docker or the image is unavailable."""
    try:
        import docker  # type: ignore[import-untyped] # noqa: PLC0415 - only a machine with the development dependencies has it
    except ImportError:
        raise KafkaUnavailableError("testcontainers is not installed") from None
    if not _engine_responds(docker):
        raise KafkaUnavailableError("no Docker engine responds")
    try:
        from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - its place since 4.15
    except ImportError:
        from testcontainers.kafka import KafkaContainer  # noqa: PLC0415
    container = KafkaContainer().with_kraft().with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    try:
        return container.start()
    except Exception as error:  # noqa: BLE001 - after any error of Docker the next kind of broker is tried
        container.stop()
        raise KafkaUnavailableError(f"testcontainers' Kafka did not start: {error}") from None


def _engine_responds(docker: ModuleType) -> bool:
    # docker-py leaves its socket to the garbage collector when no engine responds: it is collected here, where the
    # warning is expected, and not during a test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env(timeout=5).close()
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()
    return True
