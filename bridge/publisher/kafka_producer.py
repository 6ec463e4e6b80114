"""Starts, replaces and closes aiokafka producers, within bounds of time and by public interfaces only.

Input: KafkaSettings. Output: a started, idempotent AIOKafkaProducer with `acks=all`.

aiokafka's `stop()` waits until each batch is confirmed, which is forever when the broker is frozen (aiokafka #1101),
and an abandoned producer continues to send. A `KafkaProducer` therefore records every task that aiokafka
starts for it, and cancels them all when it is closed: afterwards nothing is sent, and no task is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bridge.errors import split_fix
from bridge.kafka.client import client_options
from bridge.kafka.diagnosis import explain
from bridge.publisher.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from bridge.config.sections import KafkaSettings
    from bridge.telemetry.health import Health
    from bridge.telemetry.metrics import Metrics

BATCH_BYTES = 512 * 1024
"""Size of a batch: half of what a topic accepts by default, so that headers and the batch's own fields always fit."""
START_SECONDS = 30.0
"""Time limit for connecting a producer."""
STOP_SECONDS = 3.0
"""Time limit for each step of closing a producer."""

_log = structlog.stdlib.get_logger()
_owner: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("owner", default=None)


class ConnectionState:
    """Whether Kafka responds (`connected`, None: not known yet); each change to connected sets `restored`."""

    def __init__(self, settings: KafkaSettings, metrics: Metrics, health: Health) -> None:
        self._servers = settings.bootstrap_servers
        self._metrics = metrics
        self._health = health
        self.connected: bool | None = None
        self.restored = False
        self._cause = ""  # of the outage, as logged last

    def report(self, fault: str | None) -> None:
        """Record why Kafka does not respond, None when it does; a change of state or of cause is logged once."""
        connected = fault is None
        cause, fix = split_fix(fault or f"{self._servers} does not respond")
        if not connected:
            fix = fix or "check the brokers and BRIDGE_KAFKA_…"
            if cause != self._cause:
                log_event = "kafka_disconnected" if self.connected is not False else "kafka_still_disconnected"
                _log.warning(log_event, bootstrap_servers=self._servers, detail=cause, fix=fix, hint="retrying")
            self._health.report("kafka", "failing", cause, f"{fix}; the bridge retries")
        self._cause = "" if connected else cause
        if connected is self.connected:
            return
        self.connected = self.restored = connected
        self._metrics.kafka_connected.set(connected)
        if connected:
            _log.info("kafka_connected", bootstrap_servers=self._servers)
            self._health.report("kafka", "ok")


class ProducerConnection:
    """Holds a started producer, and starts another one when it was replaced."""

    def __init__(self, settings: KafkaSettings, metrics: Metrics, on_connection: Callable[[str | None], None]) -> None:
        """`on_connection` receives why Kafka does not respond, None when it does."""
        self._settings = settings
        self._metrics = metrics
        self._on_connection = on_connection
        self._producer: KafkaProducer | None = None

    async def connect(self) -> AIOKafkaProducer:
        """Return a producer that has reached Kafka, retrying until it does."""
        attempts = itertools.count()
        while self._producer is None:
            producer = KafkaProducer(self._settings)
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                self._on_connection(await explain(self._settings, error))
                await producer.close(flush=False)
                await asyncio.sleep(backoff(next(attempts)))
            except BaseException:
                await producer.close(flush=False)
                raise
            else:
                self._producer = producer
                self._on_connection(None)
        return self._producer.api

    async def replace(self) -> None:
        """Close the producer with what it has unconfirmed; the next `connect` starts another one."""
        self._metrics.producer_replacements.inc()
        await self.close(flush=False)

    async def close(self, *, flush: bool) -> None:
        """Close the producer, if there is one; `flush`: no batch of it is unconfirmed."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close(flush=flush)


class KafkaProducer:
    """An idempotent aiokafka producer with `acks=all`, and the tasks that belong to it."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Prepare the producer, in a running event loop. Raises ConfigError when a certificate cannot be used."""
        self.api = AIOKafkaProducer(
            **client_options(settings),
            enable_idempotence=True,
            acks="all",
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=BATCH_BYTES,
            linger_ms=0,
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Connect. Raises KafkaError, OSError or TimeoutError; the producer must be closed then too."""
        with self._owning_new_tasks():
            async with asyncio.timeout(START_SECONDS):
                await self.api.start()

    async def close(self, *, flush: bool = False) -> None:
        """Close the producer; `flush`: every batch is confirmed, so that aiokafka may end by itself.

        Takes at most four times STOP_SECONDS, and raises nothing but CancelledError.
        """
        if not flush:
            await self._cancel_tasks()
        with self._owning_new_tasks(), contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await self.api.stop()
        await self._cancel_tasks()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await self.api.client.close()

    @contextlib.contextmanager
    def _owning_new_tasks(self) -> Iterator[None]:
        """Record the tasks that are started in the block, and those that these start, until they are done."""
        _install_task_factory(asyncio.get_running_loop())
        token = _owner.set(self._tasks)
        try:
            yield
        finally:
            _owner.reset(token)

    async def _cancel_tasks(self) -> None:
        # A cancelled task may start another one while it ends, so once more.
        for _ in range(2):
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=STOP_SECONDS / 2)


def _install_task_factory(loop: asyncio.AbstractEventLoop) -> None:
    """Let `loop` record each new task with the owner that is set in its context."""
    previous = loop.get_task_factory()
    if getattr(previous, "records_owner", False):
        return

    def create_task(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any]
        task = previous(loop, coroutine, **options) if previous else asyncio.Task(coroutine, loop=loop, **options)  # type: ignore[assignment]
        tasks = _owner.get()
        if tasks is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    create_task.records_owner = True  # type: ignore[attr-defined]
    loop.set_task_factory(create_task)  # type: ignore[arg-type]
