"""A whole consumer: the latest known state of each video asset, in SQLite, from the topics of video.status.

    pip install aiokafka
    python consumer.py localhost:9092 assets.sqlite gumlet.video.status.ready gumlet.video.status.deleted

What it does with what the contract says:

- DuplicateCounter: the record's `ce_source` and `ce_id` go into the database in the same transaction as their effect. A record
  that is read again, after a crash or because it was delivered twice, finds itself there and has no effect.
- Order: there is none between topics, and an older event can come late. A state therefore only moves forward, and a
  deletion is final.
- Offsets are committed after the transaction: what was not handled is read again.
- Unknown properties and words are left alone; a tombstone, which no topic of the bridge has, is passed over.
- Every wire format is read: in `confluent` five bytes stand before the JSON, in `header` a header holds bytes.

Each event that had an effect is one line of JSON on standard output. SIGTERM and SIGINT end it.
"""

import asyncio
import json
import signal
import sqlite3
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

STATES = ["created", "downloaded", "stream_ready", "optimized", "ready", "repackaged", "errored", "deleted"]
"""From the first to the final: an asset never goes back in this list."""

TABLES = """
CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms INTEGER, PRIMARY KEY (source, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, state INTEGER, record TEXT) WITHOUT ROWID;
"""
PREFIX_BYTES = 5
"""A zero byte, with which no JSON begins, and the id of the schema in a registry."""
A_REPEAT_CAN_COME_MS = 8 * 86_400_000
"""As long as the topics keep records, and a day more: what was handled before that need not be remembered."""


def handle(database: sqlite3.Connection, record: ConsumerRecord) -> bool:
    """Take one record into the database; return whether it was new."""
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
            apply(database, event)
            print(
                json.dumps({"id": headers["ce_id"], "type": event["type"], "asset_id": event["asset_id"]}), flush=True
            )
    return bool(new)


def apply(database: sqlite3.Connection, event: dict[str, Any]) -> None:
    """Bring the asset's state forward, if this event is not behind it."""
    name = event["type"].rpartition(".")[2]
    if name not in STATES:  # a type that came after this program was written
        return
    database.execute(
        "INSERT INTO asset VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, "
        "record = excluded.record WHERE excluded.state >= asset.state",
        (event["asset_id"], STATES.index(name), json.dumps(event)),
    )


async def consume(servers: str, path: str, topics: list[str], stop: asyncio.Event) -> None:
    """Read the topics as one of the group, until told to stop."""
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    with database:
        database.execute("DELETE FROM handled WHERE at_ms < ?", (time.time() * 1000 - A_REPEAT_CAN_COME_MS,))
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
    """Take the arguments, and end on a signal."""
    servers, path, *topics = sys.argv[1:]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await consume(servers, path, topics, stop)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: consumer.py BOOTSTRAP_SERVERS DATABASE TOPIC...")
    asyncio.run(main())
