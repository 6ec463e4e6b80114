"""A connected client for reading metadata and changing topics.

Input: KafkaSettings. Output: an AIOKafkaClient for the length of a block, and the response of a request.
Invariants: a failed connection raises ConnectionFailedError with the diagnosed cause; every request is bounded in time.
aiokafka's admin client is not used: it describes a topic by name with automatic creation on.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, KafkaError, NodeNotReadyError

from bridge.kafka.client import ConnectionFailedError, client_options
from bridge.kafka.diagnosis import explain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.config.sections import KafkaSettings

REQUEST_TIMEOUT_MS = 15_000
BROKER_SECONDS = 1.0
"""Time limit for one broker's response when several brokers can be asked."""


@asynccontextmanager
async def kafka_client(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaClient]:
    """Connect a client for the length of the block.

    Raises ConnectionFailedError when no broker responds, or when a broker cannot be reached at the address that it
    advertises.
    """
    client = AIOKafkaClient(**client_options(kafka), request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        try:
            await client.bootstrap()
        except (KafkaError, OSError, TimeoutError) as error:
            raise ConnectionFailedError(await explain(kafka, error)) from error
        try:
            yield client
        except (KafkaConnectionError, NodeNotReadyError, TimeoutError) as error:
            # The bootstrap server responds: the cause, if a new connection finds one, is an advertised address.
            if cause := await explain(kafka):
                raise ConnectionFailedError(cause) from error
            raise
    finally:
        await client.close()


async def send_to_any(client: AIOKafkaClient, request: Any, seconds: float) -> dict[str, Any]:
    """Send a request to one broker after another until one responds; return the response.

    Raises KafkaError, OSError or TimeoutError when none responds within `seconds`, and IncompatibleBrokerVersion when
    the broker does not have this API.
    """
    brokers = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(brokers)
    failure: Exception = KafkaConnectionError("the cluster has no available broker")
    async with asyncio.timeout(seconds):
        for broker in brokers:
            try:
                async with asyncio.timeout(BROKER_SECONDS if broker != brokers[-1] else None):
                    response = await client.send(broker, request)
            except IncompatibleBrokerVersion:
                raise
            except (KafkaError, OSError, TimeoutError) as error:
                failure = error
            else:
                found: dict[str, Any] = response.to_object()
                return found
    raise failure
