"""A complete consumer: the latest known state of each video asset, in SQLite, from the topics of video.status.

    pip install aiokafka
    python consumer.py localhost:9092 assets.sqlite gumlet.video.status.ready gumlet.video.status.deleted

How it follows the rules of the schema reference:

- Duplicates: the record's `ce_source` and `ce_id` are stored in the transaction of their effect. A duplicate, after
  a crash or because an event was delivered twice, finds its id in the database and has no effect.
- Order: topics have no order among each other, and an older event can arrive late. A state therefore only moves forward
  by its rank; with the same rank the later receipt (`ce_time`) wins, and a deletion is final.
- Offsets are committed after the transaction: records that were not handled are read again.
- Unknown properties and types are ignored; a tombstone, which no topic of the bridge has, is skipped.
- Every wire format is read: in `confluent` five bytes precede the JSON, in `header` a header holds bytes.

Each new event is printed as one line of JSON on standard output. SIGTERM and SIGINT end the program.
"""

import asyncio
import json
import signal
import sqlite3
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

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

TABLES = """
CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms INTEGER, PRIMARY KEY (source, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, rank INTEGER, at TEXT, record TEXT) WITHOUT ROWID;
"""
PREFIX_BYTES = 5
"""A zero byte, with which no JSON begins, and the id of the schema in a registry."""
DUPLICATE_WINDOW_MS = 8 * 86_400_000
"""How long ids are remembered: the retention of the topics, and the day for which Gumlet retries."""


def handle(database: sqlite3.Connection, record: ConsumerRecord) -> bool:
    """Store one record in the database; return whether it was new."""
    if record.value is None:
        return False
    headers = {name: value.decode() for name, value in record.headers if name.startswith("ce_")}
    value = record.value[PREFIX_BYTES:] if record.value[0] == 0 else record.value
    with database:  # one transaction: the id and the effect, or neither
        new = database.execute(
            "INSERT OR IGNORE INTO handled VALUES (?, ?, ?)",
            (headers["ce_source"], headers["ce_id"], time.time() * 1000),
        ).rowcount
        if new:
            event = json.loads(value)
            apply(database, event, headers["ce_time"])
            print(
                json.dumps({"id": headers["ce_id"], "type": event["type"], "asset_id": event["asset_id"]}), flush=True
            )
    return bool(new)


def apply(database: sqlite3.Connection, event: dict[str, Any], received: str) -> None:
    """Move the asset's state forward, unless this event is older than the state."""
    rank = RANKS.get(event["type"].rpartition(".")[2])
    if rank is None:  # a type that is newer than this program
        return
    database.execute(
        "INSERT INTO asset VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET rank = excluded.rank, at = excluded.at, "
        "record = excluded.record WHERE (excluded.rank, excluded.at) >= (asset.rank, asset.at)",
        (event["asset_id"], rank, received, json.dumps(event)),
    )


async def consume(servers: str, path: str, topics: list[str], stop: asyncio.Event) -> None:
    """Read the topics as a member of the consumer group, until `stop` is set."""
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    with database:
        database.execute("DELETE FROM handled WHERE at_ms < ?", (time.time() * 1000 - DUPLICATE_WINDOW_MS,))
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=servers,
        group_id=f"assets-{topics[0]}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with consumer:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=200)
            for records in batches.values():
                for record in records:
                    handle(database, record)
            if batches:
                await consumer.commit()
    database.close()


async def main() -> None:
    """Read the arguments, and end on a signal."""
    servers, path, *topics = sys.argv[1:]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await consume(servers, path, topics, stop)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: consumer.py BOOTSTRAP_SERVERS DATABASE TOPIC...")
    asyncio.run(main())
