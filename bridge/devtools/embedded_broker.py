"""librdkafka's embedded broker, for `gumlet-bridge dev` and for tests. Not for production.

Any Kafka client can connect; idempotent producers and consumer groups work. Limits: everything is in memory and ends
with the process; one node; no admin API (the first request for a topic creates it with four partitions); no limit on a
message's size; a partition keeps about its newest 5 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from confluent_kafka import Producer

START_SECONDS = 10


class EmbeddedBroker:
    """A broker on a free loopback port for the length of the `with` block, at `bootstrap_servers`.

    Raises BridgeError when the `confluent-kafka` package is not installed.
    """

    bootstrap_servers: str
    version: str
    """The version of librdkafka."""

    def __init__(self) -> None:
        try:
            import confluent_kafka  # noqa: PLC0415 - optional: `gumlet-bridge serve` never needs it
        except ImportError as error:
            raise BridgeError(
                "The embedded broker requires librdkafka. Fix: pip install gumlet-kafka-bridge[embedded]"
            ) from error
        self.version = confluent_kafka.libversion()[0]
        self._kafka = confluent_kafka
        self._cluster: Producer | None = None

    def __enter__(self) -> Self:
        # The producer only owns the cluster; librdkafka replaces the configured address by the cluster's.
        self._cluster = self._kafka.Producer(
            {"test.mock.num.brokers": 1, "bootstrap.servers": "embedded", "log_level": 0}
        )
        (broker,) = self._cluster.list_topics(timeout=START_SECONDS).brokers.values()
        self.bootstrap_servers = f"{broker.host}:{broker.port}"
        return self

    def __exit__(self, *_: object) -> None:
        # Deleting the last reference stops the cluster and closes its port.
        self._cluster = None
