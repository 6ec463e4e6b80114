"""The consumers of `schemas/consumers/` as programs, records to test them with, and the tables that must result."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery, Event
from bridge.kafka.wire_format import encode_guid_header, encode_id_prefix
from tests.support.daemon import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROCESSED = ["ready", "errored", "repackaged"]
RANKS = {"created": 0, "downloaded": 1, "stream_ready": 2, "optimized": 3, "processed": 3, "deleted": 5}
RANKS |= dict.fromkeys(PROCESSED, 4)
PLAYABLE = {"stream_ready", "ready", "repackaged"}
NEW_TYPE = "archived"
"""A type that no consumer knows, on the topic of `ready`."""
PARTITIONS = 3
START_MS = 1_700_000_000_000
SECONDS = 90


class Program:
    """A member of the consumer group in a process of its own. `database`: a SQLite file, or PostgreSQL's URL."""

    def __init__(self, command: Sequence[str | Path], servers: str, database: Path | str, prefix: str) -> None:
        self._database = database
        with tempfile.NamedTemporaryFile("wb", delete=False) as log:
            self._log = Path(log.name)
            self.process = subprocess.Popen(
                [*command, servers, database, prefix], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.unlink()

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it as a supervisor does, and check its exit code."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) in (0, 143), self._log.read_text()

    def check_running(self) -> None:
        """Fail with its output if it has ended."""
        assert self.process.poll() is None, self._log.read_text()

    def wait_until_handled(self, count: int) -> None:
        """Wait until the database has at least so many ids of handled records."""

        def handled() -> bool:
            self.check_running()
            return count_handled(self._database) >= count

        wait_for(handled, SECONDS, f"{count} records are handled")


class Asset(NamedTuple):
    """The row of an asset."""

    type: str
    received_at: str
    playback_url: str | None


def query(database: Path | str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query; none if the table does not exist yet."""
    if isinstance(database, str):
        import psycopg  # noqa: PLC0415 - optional: only the tests of PostgreSQL need it

        connection: Any = psycopg.connect(database)
    else:
        connection = sqlite3.connect(database, timeout=60)
    with closing(connection):
        try:
            return list(connection.execute(statement).fetchall())
        except Exception as error:  # each database has exceptions of its own
            if "no such table" in str(error) or "does not exist" in str(error):
                return []
            raise


def count_handled(database: Path | str) -> int:
    """Return the number of ids in the memory of handled records."""
    return next((count for (count,) in query(database, "SELECT count(*) FROM handled")), 0)


def assets(database: Path | str) -> dict[str, Asset]:
    """Return the rows of the assets by their ids."""
    rows = query(database, "SELECT id, type, received_at, playback_url FROM asset")
    return {asset_id: Asset(*row) for asset_id, *row in rows}


def group(database: Path | str) -> str:
    """Return the name of the consumer group."""
    ((name,),) = query(database, "SELECT name FROM consumer_group")
    return str(name)


def header(event: Event, name: str) -> str:
    """Return a header's text."""
    return dict(event.headers)[name].decode()


def expected_assets(published: Iterable[Event]) -> dict[str, Asset]:
    """Return the rows that the published events must lead to: the rules of the schema reference, in another form."""
    best: dict[str, tuple[int, str, str, Event]] = {}
    seen = set()
    for event in published:
        name = event.event_type.removeprefix("video.status.")
        if event.id not in seen and name in RANKS and event.key:
            seen.add(event.id)
            state = RANKS[name], header(event, "ce_time"), event.event_type, event
            # The first of equals: of one topic, the later offset.
            best[event.key.decode()] = max(state, best.get(event.key.decode(), state), key=lambda each: each[:3])
    rows = {}
    for asset_id, (_, received, _, event) in best.items():
        url = record(event).get("output", {}).get("playback_url")
        playable = event.event_type.rpartition(".")[2] in PLAYABLE
        rows[asset_id] = Asset(event.event_type, received, url if playable else None)
    return rows


def record(event: Event) -> dict[str, Any]:
    """Return the JSON of an event in any wire format."""
    value: dict[str, Any] = orjson.loads(event.value[5:] if event.value[0] == 0 else event.value)
    return value


class Scenario:
    """Events of many assets in disorder: duplicates, equal times, new properties, all wire formats, dead letters."""

    def __init__(self, prefix: str, seed: int = 1) -> None:
        self._rng = Random(seed)
        self._normalizer = Normalizer(Contract.load(prefix))
        self._prefix = prefix
        self._now_ms = START_MS

    def topics(self) -> list[str]:
        """Return the names of the topics."""
        states = [f"{self._prefix}video.status.{name.replace('_', '-')}" for name in RANKS]
        return [*states, f"{self._prefix}dead-letter"]

    def event(self, name: str, asset: str, *, received_ms: int | None = None, **fields: Any) -> Event:
        """Return an event; without `received_ms`, it is received a millisecond after the previous one."""
        self._now_ms += 1
        type_ = f"video.status.{'ready' if name == NEW_TYPE else name}"
        output = {"playback_url": f"https://example.com/{asset}/{self._now_ms}.m3u8"}
        body = orjson.dumps({"type": type_, "asset_id": asset, "output": output} | fields)
        event = self._normalizer.event(Delivery(received_ms or self._now_ms, "default", body))
        if name == NEW_TYPE:
            type_ = f"video.status.{name}"
            headers = dict(event.headers) | {"ce_type": f"com.gumlet.{type_}".encode()}
            value = orjson.dumps(record(event) | {"type": type_})
            event = event._replace(headers=list(headers.items()), value=value, event_type=type_)
        return event

    def dead_letter(self, number: int) -> Event:
        """Return a dead letter, whose key no consumer needs."""
        self._now_ms += 1
        return self._normalizer.event(Delivery(self._now_ms, "default", b'{"type": %d' % number))

    def duplicate(self, event: Event) -> Event:
        """Return the event as if it was delivered again later."""
        self._now_ms += 1
        again = self._normalizer.event(Delivery(self._now_ms, "default", b'{"type": 0'))
        headers = dict(event.headers) | {"ce_time": header(again, "ce_time").encode()}
        return event._replace(headers=list(headers.items()), received_ms=self._now_ms)

    def disordered(self, count: int) -> list[Event]:
        """Return the events of `count` assets, each type at any time, one in four a second time, in several forms."""
        rng = self._rng
        planned = [(f"asset-{number}", name) for number in range(count) for name in self._types()]
        rng.shuffle(planned)
        events: list[Event] = []
        for position, (asset, name) in enumerate(planned):
            # One asset in three has all its events in one millisecond.
            received_ms = START_MS if asset.endswith(("1", "4", "7")) else None
            event = self.event(name, asset, received_ms=received_ms, title=f"{position}", new_field={"x": position})
            events.append(self._vary(event))
            if rng.random() < 0.25:  # a duplicate in another form: of any earlier event
                events.append(self._vary(self.duplicate(rng.choice(events))))
            if position % 100 == 0:
                events.append(self.dead_letter(position))
        # Two topics are read after the others: topics have no common order.
        return sorted(events, key=lambda event: event.event_type.endswith((".created", ".ready")))

    def _types(self) -> list[str]:
        rng = self._rng
        types = [name for name in RANKS if name not in ("repackaged", "deleted") and rng.random() < 0.6]
        types += ["repackaged"] * rng.randrange(3)
        return types + [name for name in ("deleted", NEW_TYPE) if rng.random() < 0.2]

    def _vary(self, event: Event) -> Event:
        value, headers = orjson.dumps(record(event) | {"future_property": {"y": [1]}}), event.headers
        form = self._rng.randrange(3)
        if form == 1:
            value = encode_id_prefix(7) + value
        elif form == 2:
            guid = encode_guid_header("00112233-4455-6677-8899-aabbccddeeff")
            headers = [each for each in headers if each[0] != guid[0]] + [guid]
        return event._replace(value=value, headers=headers)


async def create_topics(servers: str, names: list[str]) -> None:
    """Create the topics, without a retention: Kafka's would delete the records, whose times are years ago."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    config = {"retention.ms": "-1"}
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config) for name in names])
    finally:
        await admin.close()


async def publish(servers: str, events: Iterable[Event]) -> None:
    """Publish events in their order."""
    async with AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, linger_ms=5) as producer:
        sent = [
            await producer.send(
                event.topic, event.value, event.key, headers=event.headers, timestamp_ms=event.received_ms
            )
            for event in events
        ]
        for delivery in sent:
            await delivery


async def publish_foreign(servers: str, topic: str) -> None:
    """Publish what the bridge never sends: a tombstone, and a record that is not an event."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(topic, None, b"asset-1")
        await producer.send_and_wait(topic, b"not JSON", b"asset-1")
