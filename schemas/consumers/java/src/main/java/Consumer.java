import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import events.AssetOutput;
import events.DeadLetter;
import events.VideoReady;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * The latest state of each video asset in a SQLite table, built from the topics alone: the Java form of
 * ../python/consumer.py, with the same tables and the same rules. In this folder:
 *
 * <pre>
 * gumlet-bridge schemas bundle build &amp;&amp; mvn package
 * java -cp 'target/classes:target/jars/*' Consumer localhost:9092 assets.sqlite
 * </pre>
 *
 * Arguments: Kafka's addresses, the file, the prefix of the topics (default gumlet.), all of which must exist.
 *
 * <ul>
 *   <li>Duplicates: ce_source and ce_id are stored in the transaction of their effect, for 31 days. A duplicate, after
 *       a crash, a rebalance or a second delivery, finds its id in the database and has no effect.
 *   <li>Order: a state only moves forward by its rank; with the same rank the later receipt (ce_time) wins, with the
 *       same time the type that is later in the alphabet, with the same type the record that is read later. A deletion
 *       is final.
 *   <li>An event replaces the record of its asset: it has everything that Gumlet knew when it sent the event.
 *   <li>Offsets are committed after the transaction.
 *   <li>Unknown properties and types are ignored. Tombstones and records that are not events of the bridge are skipped.
 *   <li>A new database is a new consumer group, which reads the topics from their beginning.
 * </ul>
 *
 * SIGTERM and SIGINT end the program; the group is left first.
 */
public final class Consumer {
  /** The order of states. An asset can be ready after an error, and vice versa. */
  private static final Map<String, Integer> RANKS =
      Map.of(
          "created", 0, "downloaded", 1, "stream_ready", 2, "optimized", 3, "processed", 3,
          "ready", 4, "errored", 4, "repackaged", 4, "deleted", 5);

  private static final Set<String> PLAYABLE = Set.of("stream_ready", "ready", "repackaged");
  private static final List<String> TABLES =
      List.of(
          "CREATE TABLE IF NOT EXISTS asset (id TEXT PRIMARY KEY, type TEXT NOT NULL, rank INTEGER NOT NULL, "
              + "received_at TEXT NOT NULL, playback_url TEXT, record TEXT NOT NULL)",
          "CREATE TABLE IF NOT EXISTS dead_letter (id TEXT PRIMARY KEY, received_at TEXT NOT NULL, "
              + "reason TEXT NOT NULL, record TEXT NOT NULL)",
          "CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, at_ms BIGINT NOT NULL, PRIMARY KEY (source, id))",
          "CREATE INDEX IF NOT EXISTS handled_at ON handled (at_ms)",
          "CREATE TABLE IF NOT EXISTS consumer_group (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL)");
  private static final String UPSERT =
      "INSERT INTO asset VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET type = excluded.type, "
          + "rank = excluded.rank, received_at = excluded.received_at, playback_url = excluded.playback_url, "
          + "record = excluded.record WHERE (excluded.rank, excluded.received_at, excluded.type) "
          + ">= (asset.rank, asset.received_at, asset.type)";

  /** How long ids are remembered: the retention of dead-letter, from which operators publish again, and a day. */
  private static final Duration DUPLICATE_WINDOW = Duration.ofDays(31);

  /** Wire format confluent: a zero byte, and the id of the schema. */
  private static final int PREFIX_BYTES = 5;

  private final ObjectMapper json =
      new ObjectMapper()
          .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false)
          .configure(DeserializationFeature.READ_UNKNOWN_ENUM_VALUES_AS_NULL, true);

  private final Connection database;

  private Consumer(Connection database) {
    this.database = database;
  }

  public static void main(String[] arguments) throws IOException, SQLException {
    if (arguments.length < 2 || arguments.length > 3) {
      System.err.println("usage: Consumer BOOTSTRAP_SERVERS DATABASE [TOPIC_PREFIX]");
      System.exit(2);
    }
    // Another member's transaction is waited for.
    String url = "jdbc:sqlite:" + arguments[1] + "?busy_timeout=60000";
    try (Connection database = DriverManager.getConnection(url)) {
      new Consumer(database).consume(arguments[0], arguments.length == 3 ? arguments[2] : "gumlet.");
    }
  }

  private void consume(String servers, String prefix) throws IOException, SQLException {
    for (String table : TABLES) {
      execute(table);
    }
    execute("INSERT INTO consumer_group VALUES (1, ?) ON CONFLICT DO NOTHING", "gumlet-assets-" + UUID.randomUUID());
    String group = group();
    database.setAutoCommit(false); // from here on, a transaction ends with commit()
    Map<String, Object> settings =
        Map.of(
            "bootstrap.servers", servers,
            "group.id", group,
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest",
            "session.timeout.ms", 10_000);
    var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    var main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(consumer, main)));
    try (consumer) {
      var videos = RANKS.keySet().stream().map(name -> prefix + "video.status." + name.replace('_', '-'));
      consumer.subscribe(Stream.concat(videos, Stream.of(prefix + "dead-letter")).toList());
      while (true) {
        var records = consumer.poll(Duration.ofSeconds(1));
        if (!records.isEmpty()) {
          handle(records);
          commit(consumer);
        }
      }
    } catch (WakeupException stopped) {
      // SIGTERM or SIGINT
    }
  }

  private static void stop(KafkaConsumer<byte[], byte[]> consumer, Thread main) {
    consumer.wakeup();
    try {
      main.join(); // until the group is left
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private static void commit(KafkaConsumer<byte[], byte[]> consumer) {
    try {
      consumer.commitSync();
    } catch (CommitFailedException | RebalanceInProgressException rebalanced) {
      // Another member has the partitions now; to it, these records are duplicates.
      System.err.println("offsets not committed: " + rebalanced.getMessage());
    }
  }

  /** Stores the ids and the effects of all records, or nothing: an error ends the program before the commit. */
  private void handle(ConsumerRecords<byte[], byte[]> records) throws IOException, SQLException {
    long now = System.currentTimeMillis();
    for (var record : records) {
      if (record.value() != null) { // not a tombstone
        handle(record, now);
      }
    }
    execute("DELETE FROM handled WHERE at_ms < ?", now - DUPLICATE_WINDOW.toMillis());
    database.commit();
  }

  private void handle(ConsumerRecord<byte[], byte[]> record, long now) throws IOException, SQLException {
    String source = header(record, "ce_source");
    String id = header(record, "ce_id");
    String received = header(record, "ce_time");
    String type = header(record, "ce_type");
    if (source == null || id == null || received == null || type == null) {
      System.err.printf(
          "skipped %s/%d/%d: not an event of the bridge%n", record.topic(), record.partition(), record.offset());
      return;
    }
    if (execute("INSERT INTO handled VALUES (?, ?, ?) ON CONFLICT DO NOTHING", source, id, now) == 0) {
      return; // a duplicate
    }
    byte[] value = record.value();
    int from = value[0] == 0 ? PREFIX_BYTES : 0;
    String text = new String(value, from, value.length - from, StandardCharsets.UTF_8);
    String name = type.substring(type.lastIndexOf('.') + 1);
    if (name.equals("dead-letter")) {
      String reason = json.readValue(text, DeadLetter.class).getReason();
      execute("INSERT INTO dead_letter VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", id, received, reason, text);
    } else if (RANKS.containsKey(name)) { // otherwise a type that is newer than this program
      // All types of video.status have the same properties: one class reads them. Its type is null for the others.
      var event = json.readValue(text, VideoReady.class);
      AssetOutput output = PLAYABLE.contains(name) ? event.getOutput() : null;
      String url = output == null ? null : output.getPlaybackUrl();
      String eventType = type.replaceFirst("com\\.gumlet\\.", "");
      execute(UPSERT, event.getAssetId(), eventType, RANKS.get(name), received, url, text);
    }
  }

  private static String header(ConsumerRecord<byte[], byte[]> record, String name) {
    var header = record.headers().lastHeader(name);
    return header == null ? null : new String(header.value(), StandardCharsets.UTF_8);
  }

  private String group() throws SQLException {
    try (var statement = database.createStatement();
        var rows = statement.executeQuery("SELECT name FROM consumer_group")) {
      return rows.getString(1);
    }
  }

  /** Runs a statement in the current transaction and returns the number of rows that it changed. */
  private int execute(String sql, Object... values) throws SQLException {
    try (PreparedStatement statement = database.prepareStatement(sql)) {
      for (int index = 0; index < values.length; index++) {
        statement.setObject(index + 1, values[index]);
      }
      return statement.executeUpdate();
    }
  }
}
