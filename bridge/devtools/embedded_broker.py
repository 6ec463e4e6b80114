"""Kafka without Kafka: librdkafka's embedded broker, for `gumlet-bridge dev` and for tests. Never for events that matter.

It speaks Kafka's protocol to any client: idempotent producers and consumer groups work. Its limits: all is in memory
and ends with the process; one node; no admin API (a topic is made with four partitions by whoever first asks for it);
no limit of a message's size; a partition keeps about its newest 5 MiB and forgets the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from confluent_kafka import Producer

START_SECONDS = 10


class EmbeddedBroker:
    """A broker on a free port of the loopback interface, from `with` to the end of the block.

    `bootstrap_servers` is where it is. Raises BridgeError when the `confluent-kafka` package is not installed.
    """

    bootstrap_servers: str
    version: str
    """librdkafka's."""

    def __init__(self) -> None:
        try:
            import confluent_kafka  # noqa: PLC0415 - optional: `gumlet-bridge serve` never needs it
        except ImportError as error:
            raise BridgeError(
                "The embedded broker needs librdkafka. Fix: pip install gumlet-kafka-bridge[embedded]"
            ) from error
        self.version = confluent_kafka.libversion()[0]
        self._kafka = confluent_kafka
        self._cluster: Producer | None = None

    def __enter__(self) -> Self:
        # The client is only there to own the cluster; the address it is given is replaced by the cluster's.
        self._cluster = self._kafka.Producer(
            {"test.mock.num.brokers": 1, "bootstrap.servers": "embedded", "log_level": 0}
        )
        (broker,) = self._cluster.list_topics(timeout=START_SECONDS).brokers.values()
        self.bootstrap_servers = f"{broker.host}:{broker.port}"
        return self

    def __exit__(self, *_: object) -> None:
        # Dropping the last reference ends the cluster and closes its port.
        self._cluster = None
