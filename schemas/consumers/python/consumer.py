"""The latest state of each video asset in a table, built from the topics alone. SQLite, or PostgreSQL by its URL.

    pip install aiokafka
    python consumer.py localhost:9092 assets.sqlite

    pip install aiokafka 'psycopg[binary]'
    python consumer.py localhost:9092 postgresql://user@host/database

Arguments: Kafka's addresses, the database, the prefix of the topics (default `gumlet.`). It reads the topics of
`video.status.*` and `dead-letter`, which must exist. Members on several machines need PostgreSQL.

Tables: `asset` has the latest event of each asset with its `type` and `record` (JSON), `dead_letter` the deliveries
that could not become an event, `handled` the ids of handled records, `consumer_group` the name of the group.

How it follows the rules of the schema reference:

- Duplicates: `ce_source` and `ce_id` are stored in the transaction of their effect. A duplicate, after a crash, a
  rebalance or a second delivery, finds its id in the database and has no effect. Ids are deleted 31 days after
  they were handled, because dead letters are kept for 30 days.
- Order: topics have no order among each other, and an older event can arrive late. A state therefore only moves forward
  by its rank; with the same rank the later receipt (`ce_time`) wins, with the same time the type that is later in the
  alphabet, with the same type the record that is read later. A deletion is final.
- An event replaces the record of its asset: it has everything that Gumlet knew when it sent the event.
- Offsets are committed after the transaction: records that were not handled are read again.
- Unknown properties and types are ignored. A record that is not an event of the bridge is reported and skipped, and so
  is a tombstone, which no topic of the bridge has.
- Every wire format is read: in `confluent` five bytes precede the JSON, in `header` a header holds bytes.
- A new database is a new consumer group, which reads the topics from their beginning. Members with one database share
  its group. The topics keep 7 days: keep the database for longer histories.

SIGTERM and SIGINT end the program; the group is left first.
"""

import asyncio
import json
import signal
import sqlite3
import sys
import time
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import CommitFailedError

RANKS = {
    "created": 0,
    "downloaded": 1,
    "stream_ready": 2,
    "optimized": 3,
    "processed": 3,
    "ready": 4,
    "errored": 4,
    "repackaged": 4,
    "deleted": 5,
}
"""The order of states: an asset never returns to a lower rank. An asset can be ready after an error, and vice versa."""

PLAYABLE = {"stream_ready", "ready", "repackaged"}

TABLES = (
    """CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, type TEXT NOT NULL, rank INTEGER NOT NULL,
    received_at TEXT NOT NULL, playback_url TEXT, record TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS dead_letter (id TEXT PRIMARY KEY, received_at TEXT NOT NULL, reason TEXT NOT NULL,
    record TEXT NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms BIGINT NOT NULL, PRIMARY KEY (source, id))",
    "CREATE INDEX IF NOT EXISTS handled_at ON handled (at_ms)",
    "CREATE TABLE IF NOT EXISTS consumer_group (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL)",
)
UPSERT = """INSERT INTO asset VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET type = excluded.type,
    rank = excluded.rank, received_at = excluded.received_at, playback_url = excluded.playback_url,
    record = excluded.record
    WHERE (excluded.rank, excluded.received_at, excluded.type) >= (asset.rank, asset.received_at, asset.type)"""
PREFIX_BYTES = 5
"""A zero byte, with which no JSON begins, and the id of the schema in a registry."""
DUPLICATE_WINDOW_MS = 31 * 86_400_000
"""How long ids are remembered: the retention of `dead-letter`, from which operators publish again, and a day."""
BATCH = 500
BUSY_SECONDS = 60
"""How long to wait for another member that writes to the same SQLite file."""


class Database:
    """SQLite or PostgreSQL: both run the same statements."""

    def __init__(self, location: str) -> None:
        self._placeholder = "?"
        if location.startswith(("postgresql://", "postgres://")):
            import psycopg  # noqa: PLC0415 - only PostgreSQL needs it

            self._connection: Any = psycopg.connect(location)
            self._placeholder = "%s"
        else:
            self._connection = sqlite3.connect(location, timeout=BUSY_SECONDS, check_same_thread=False)
        for statement in TABLES:
            self._connection.execute(statement)
        name = f"gumlet-assets-{uuid.uuid4().hex[:12]}"
        self.execute("INSERT INTO consumer_group VALUES (1, ?) ON CONFLICT DO NOTHING", name)
        ((self.group,),) = self.execute("SELECT name FROM consumer_group")
        self._connection.commit()

    def execute(self, statement: str, *values: Any) -> Any:
        """Run a statement in the current transaction and return its cursor."""
        return self._connection.execute(statement.replace("?", self._placeholder), values)

    def handle(self, records: list[ConsumerRecord]) -> None:
        """Handle records in one transaction: all their ids and effects, or none."""
        now_ms = int(time.time() * 1000)
        # In the order of the keys, so that two members never wait for each other's rows; each key's order remains.
        for record in sorted(records, key=lambda record: record.key or b""):
            if record.value is not None:  # not a tombstone
                self._handle(record, now_ms)
        self.execute("DELETE FROM handled WHERE at_ms < ?", now_ms - DUPLICATE_WINDOW_MS)
        self._connection.commit()

    def _handle(self, record: ConsumerRecord, now_ms: int) -> None:
        try:
            headers = {name: value.decode() for name, value in record.headers if name.startswith("ce_")}
            source, event_id, received = headers["ce_source"], headers["ce_id"], headers["ce_time"]
            value = (record.value[PREFIX_BYTES:] if record.value[0] == 0 else record.value).decode()
            event = json.loads(value)
            short_type = headers["ce_type"].rpartition(".")[2]
        except (LookupError, ValueError) as error:
            place = f"{record.topic}/{record.partition}/{record.offset}"
            print(f"skipped {place}: not an event of the bridge: {error!r}", file=sys.stderr, flush=True)
            return
        new = self.execute("INSERT INTO handled VALUES (?, ?, ?) ON CONFLICT DO NOTHING", source, event_id, now_ms)
        if not new.rowcount:
            return
        if short_type == "dead-letter":
            row = event_id, received, event["reason"], value
            self.execute("INSERT INTO dead_letter VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", *row)
        elif short_type in RANKS:  # otherwise a type that is newer than this program
            url = event.get("output", {}).get("playback_url") if short_type in PLAYABLE else None
            self.execute(UPSERT, event["asset_id"], event["type"], RANKS[short_type], received, url, value)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def consume(servers: str, database: Database, prefix: str, stop: asyncio.Event) -> None:
    """Read the topics as a member of the consumer group, until `stop` is set."""
    consumer = AIOKafkaConsumer(
        *(f"{prefix}video.status.{name.replace('_', '-')}" for name in RANKS),
        f"{prefix}dead-letter",
        bootstrap_servers=servers,
        group_id=database.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with consumer:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=200, max_records=BATCH)
            if not batches:
                continue
            records = [record for batch in batches.values() for record in batch]
            # In a thread: a slow database must not stop the heartbeats.
            await asyncio.to_thread(database.handle, records)
            try:
                await consumer.commit()
            except CommitFailedError:  # another member has the partitions now; to it, these records are duplicates
                print("offsets not committed: the group was rebalanced", file=sys.stderr, flush=True)


async def main(servers: str, location: str, prefix: str = "gumlet.") -> None:
    """Open the database, consume, and end on a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = Database(location)
    print(f"group {database.group}", file=sys.stderr, flush=True)
    try:
        await consume(servers, database, prefix, stop)
    finally:
        database.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: consumer.py BOOTSTRAP_SERVERS DATABASE [TOPIC_PREFIX]")
    asyncio.run(main(*sys.argv[1:]))
