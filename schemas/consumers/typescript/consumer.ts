/**
 * The latest state of each video asset in a SQLite table, built from the topics alone: the TypeScript form of
 * ../python/consumer.py, with the same tables and the same rules. In this folder:
 *
 *     npm install && npm run build
 *     npm start -- localhost:9092 assets.sqlite
 *
 * Arguments: Kafka's addresses, the file, the prefix of the topics (default gumlet.), all of which must exist.
 *
 * - Duplicates: ce_source and ce_id are stored in the transaction of their effect, for 31 days. A duplicate, after a
 *   crash, a rebalance or a second delivery, finds its id in the database and has no effect.
 * - Order: a state only moves forward by its rank; with the same rank the later receipt (ce_time) wins, with the same
 *   time the type that is later in the alphabet, with the same type the record that is read later. A deletion is final.
 * - An event replaces the record of its asset: it has everything that Gumlet knew when it sent the event.
 * - Offsets are committed after the transaction: KafkaJS commits a batch when its handler has returned.
 * - Unknown properties and types are ignored. Tombstones and records that are not events of the bridge are skipped.
 * - A new database is a new consumer group, which reads the topics from their beginning.
 *
 * SIGTERM and SIGINT end the program; the group is left first.
 */
import { randomUUID } from "node:crypto";
import { Kafka, logLevel, type EachBatchPayload, type KafkaMessage } from "kafkajs";
import Database from "libsql";
import type { AnyEvent } from "./any-event.js";
import type { DeadLetter } from "./dead-letter.js";

/** An event of a video: the types of video.status. */
type VideoEvent = Extract<AnyEvent, { type: `video.status.${string}` }>;

/** The order of states; a new type in the schemas is an error here. An asset can be ready after an error, and vice versa. */
const RANKS: Record<VideoEvent["type"], number> = {
  "video.status.created": 0,
  "video.status.downloaded": 1,
  "video.status.stream_ready": 2,
  "video.status.optimized": 3,
  "video.status.processed": 3,
  "video.status.ready": 4,
  "video.status.errored": 4,
  "video.status.repackaged": 4,
  "video.status.deleted": 5,
};
const TABLES = `
CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, type TEXT NOT NULL, rank INTEGER NOT NULL,
  received_at TEXT NOT NULL, playback_url TEXT, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letter (id TEXT PRIMARY KEY, received_at TEXT NOT NULL, reason TEXT NOT NULL,
  record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms BIGINT NOT NULL, PRIMARY KEY (source, id));
CREATE INDEX IF NOT EXISTS handled_at ON handled (at_ms);
CREATE TABLE IF NOT EXISTS consumer_group (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);`;
const UPSERT = `
INSERT INTO asset VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET type = excluded.type, rank = excluded.rank,
  received_at = excluded.received_at, playback_url = excluded.playback_url, record = excluded.record
  WHERE (excluded.rank, excluded.received_at, excluded.type) >= (asset.rank, asset.received_at, asset.type)`;
/** How long ids are remembered: the retention of dead-letter, from which operators publish again, and a day. */
const DUPLICATE_WINDOW_MS = 31 * 86_400_000;
/** Wire format confluent: a zero byte, and the id of the schema. */
const PREFIX_BYTES = 5;

const [servers, path, prefix = "gumlet."] = process.argv.slice(2);
if (servers === undefined || path === undefined) {
  console.error("usage: consumer BOOTSTRAP_SERVERS DATABASE [TOPIC_PREFIX]");
  process.exit(2);
}

const database = new Database(path, { timeout: 60_000 }); // another member's transaction is waited for
database.exec(TABLES);
database
  .prepare("INSERT INTO consumer_group VALUES (1, ?) ON CONFLICT DO NOTHING")
  .run(`gumlet-assets-${randomUUID()}`);
const { name: groupId } = database.prepare("SELECT name FROM consumer_group").get() as { name: string };
const remember = database.prepare("INSERT INTO handled VALUES (?, ?, ?) ON CONFLICT DO NOTHING");
const forget = database.prepare("DELETE FROM handled WHERE at_ms < ?");
const upsert = database.prepare(UPSERT);
const insertDeadLetter = database.prepare("INSERT INTO dead_letter VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING");

/** Store the ids and the effects of all messages, or nothing. */
const handleAll = database.transaction((topic: string, messages: KafkaMessage[], now: number) => {
  for (const message of messages) {
    if (message.value !== null) handle(topic, message, message.value, now); // null: a tombstone
  }
  forget.run(now - DUPLICATE_WINDOW_MS);
});

function handle(topic: string, message: KafkaMessage, value: Buffer, now: number): void {
  const header = (name: string) => message.headers?.[name]?.toString();
  const [source, id, received] = [header("ce_source"), header("ce_id"), header("ce_time")];
  const text = (value[0] === 0 ? value.subarray(PREFIX_BYTES) : value).toString();
  if (source === undefined || id === undefined || received === undefined) {
    console.error(`skipped ${topic} at offset ${message.offset}: not an event of the bridge`);
    return;
  }
  if (remember.run(source, id, now).changes === 0) return; // a duplicate
  const type = header("ce_type")?.replace(/^com\.gumlet\./, "");
  if (type === "dead-letter") {
    const letter = JSON.parse(text) as DeadLetter;
    insertDeadLetter.run(id, received, letter.reason, text);
    return;
  }
  const event = JSON.parse(text) as VideoEvent;
  const rank: number | undefined = RANKS[event.type];
  if (rank === undefined) return; // a type that is newer than this program
  upsert.run(event.asset_id, event.type, rank, received, playbackUrl(event) ?? null, text);
}

/** Return the URL of a playable asset. */
function playbackUrl(event: VideoEvent): string | undefined {
  switch (event.type) {
    case "video.status.stream_ready":
    case "video.status.ready":
    case "video.status.repackaged":
      return event.output?.playback_url;
    default:
      return undefined;
  }
}

async function handleBatch({ batch, isStale, resolveOffset }: EachBatchPayload): Promise<void> {
  if (isStale()) return; // another member has the partition now
  handleAll.immediate(batch.topic, batch.messages, Date.now());
  resolveOffset(batch.lastOffset());
}

const kafka = new Kafka({ brokers: servers.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, rebalanceTimeout: 10_000 });
for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, async () => {
    await consumer.disconnect();
    database.close();
  });
}
await consumer.connect();
const topics = Object.keys(RANKS).map((type) => prefix + type.replaceAll("_", "-"));
await consumer.subscribe({ topics: [...topics, `${prefix}dead-letter`], fromBeginning: true });
await consumer.run({ eachBatchAutoResolve: false, eachBatch: handleBatch });
