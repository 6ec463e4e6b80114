// The latest state of each video asset in a SQLite table, built from the topics alone: the Go form of
// ../python/consumer.py, with the same tables and the same rules. In this folder:
//
//	go generate && go build -o consumer
//	./consumer localhost:9092 assets.sqlite
//
// Arguments: Kafka's addresses, the file, the prefix of the topics (default gumlet.), all of which must exist.
//
//   - Duplicates: ce_source and ce_id are stored in the transaction of their effect, for 31 days. A duplicate, after a
//     crash, a rebalance or a second delivery, finds its id in the database and has no effect.
//   - Order: a state only moves forward by its rank; with the same rank the later receipt (ce_time) wins, with the same
//     time the type that is later in the alphabet, with the same type the record that is read later. A deletion is
//     final.
//   - An event replaces the record of its asset: it has everything that Gumlet knew when it sent the event.
//   - Offsets are committed after the transaction, and no rebalance starts before.
//   - Unknown properties and types are ignored. Tombstones and records that are not events of the bridge are skipped.
//   - A new database is a new consumer group, which reads the topics from their beginning.
//
// SIGTERM and SIGINT end the program; the group is left first.
package main

//go:generate gumlet-bridge schemas bundle --inline build
//go:generate go tool go-jsonschema --package main --tags json --struct-name-from-title --output events.go build/any-event.json build/dead-letter.json

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite"
)

// The order of states. An asset can be ready after an error, and vice versa.
var ranks = map[string]int{
	"created": 0, "downloaded": 1, "stream_ready": 2, "optimized": 3, "processed": 3,
	"ready": 4, "errored": 4, "repackaged": 4, "deleted": 5,
}

const (
	tables = `
CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, type TEXT NOT NULL, rank INTEGER NOT NULL,
  received_at TEXT NOT NULL, playback_url TEXT, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letter (id TEXT PRIMARY KEY, received_at TEXT NOT NULL, reason TEXT NOT NULL,
  record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms BIGINT NOT NULL, PRIMARY KEY (source, id));
CREATE INDEX IF NOT EXISTS handled_at ON handled (at_ms);
CREATE TABLE IF NOT EXISTS consumer_group (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);`
	upsert = `
INSERT INTO asset VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET type = excluded.type, rank = excluded.rank,
  received_at = excluded.received_at, playback_url = excluded.playback_url, record = excluded.record
  WHERE (excluded.rank, excluded.received_at, excluded.type) >= (asset.rank, asset.received_at, asset.type)`
	batch = 500
	// How long ids are remembered: the retention of dead-letter, from which operators publish again, and a day.
	duplicateWindow = 31 * 24 * time.Hour
	prefixBytes     = 5 // wire format confluent: a zero byte, and the id of the schema
)

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		log.Fatal("usage: consumer BOOTSTRAP_SERVERS DATABASE [TOPIC_PREFIX]")
	}
	prefix := "gumlet."
	if len(os.Args) == 4 {
		prefix = os.Args[3]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := consume(ctx, strings.Split(os.Args[1], ","), os.Args[2], prefix); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func consume(ctx context.Context, servers []string, path, prefix string) error {
	// The lock is taken when a transaction begins; another member's is waited for.
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(tables); err != nil {
		return err
	}
	var group string
	if _, err := db.Exec("INSERT INTO consumer_group VALUES (1, ?) ON CONFLICT DO NOTHING", "gumlet-assets-"+rand.Text()); err != nil {
		return err
	}
	if err := db.QueryRow("SELECT name FROM consumer_group").Scan(&group); err != nil {
		return err
	}
	topics := []string{prefix + "dead-letter"}
	for name := range ranks {
		topics = append(topics, prefix+"video.status."+strings.ReplaceAll(name, "_", "-"))
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(servers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(10*time.Second),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	for {
		fetches := client.PollRecords(ctx, batch)
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("%s/%d: %v", topic, partition, err)
		})
		if records := fetches.Records(); len(records) > 0 {
			if err := handle(db, records); err != nil {
				return err
			}
			if err := client.CommitRecords(ctx, records...); err != nil {
				log.Printf("offsets not committed: %v", err) // the records are read again, as duplicates
			}
		}
		client.AllowRebalance()
	}
}

// handle stores the ids and the effects of all records, or nothing.
func handle(db *sql.DB, records []*kgo.Record) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	now := time.Now()
	for _, record := range records {
		if record.Value == nil { // a tombstone
			continue
		}
		if err := handleRecord(tx, record, now); err != nil {
			return fmt.Errorf("%s/%d/%d: %w", record.Topic, record.Partition, record.Offset, err)
		}
	}
	if _, err := tx.Exec("DELETE FROM handled WHERE at_ms < ?", now.Add(-duplicateWindow).UnixMilli()); err != nil {
		return err
	}
	return tx.Commit()
}

func handleRecord(tx *sql.Tx, record *kgo.Record, now time.Time) error {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	value := record.Value
	if len(value) > prefixBytes && value[0] == 0 {
		value = value[prefixBytes:]
	}
	source, id, received := headers["ce_source"], headers["ce_id"], headers["ce_time"]
	if source == "" || id == "" || !json.Valid(value) {
		log.Printf("skipped %s/%d/%d: not an event of the bridge", record.Topic, record.Partition, record.Offset)
		return nil
	}
	inserted, err := tx.Exec("INSERT INTO handled VALUES (?, ?, ?) ON CONFLICT DO NOTHING", source, id, now.UnixMilli())
	if err != nil {
		return err
	}
	if count, err := inserted.RowsAffected(); err != nil || count == 0 {
		return err
	}
	eventType := strings.TrimPrefix(headers["ce_type"], "com.gumlet.")
	if eventType == "dead-letter" {
		var letter DeadLetter
		if err := json.Unmarshal(value, &letter); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO dead_letter VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", id, received, letter.Reason, string(value))
		return err
	}
	rank, known := ranks[strings.TrimPrefix(eventType, "video.status.")]
	if !known { // a type that is newer than this program
		return nil
	}
	url, err := playbackURL(eventType, value)
	if err != nil {
		return err
	}
	_, err = tx.Exec(upsert, string(record.Key), eventType, rank, received, url, string(value))
	return err
}

// playbackURL returns the URL of a playable asset, or nil.
func playbackURL(eventType string, value []byte) (*string, error) {
	switch eventType {
	case "video.status.stream_ready":
		var event VideoStreamReady
		err := json.Unmarshal(value, &event)
		if err != nil || event.Output == nil {
			return nil, err
		}
		return event.Output.PlaybackUrl, nil
	case "video.status.ready":
		var event VideoReady
		err := json.Unmarshal(value, &event)
		if err != nil || event.Output == nil {
			return nil, err
		}
		return event.Output.PlaybackUrl, nil
	case "video.status.repackaged":
		var event VideoRepackaged
		err := json.Unmarshal(value, &event)
		if err != nil || event.Output == nil {
			return nil, err
		}
		return event.Output.PlaybackUrl, nil
	}
	return nil, nil
}
