import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A complete consumer: prints each event once, as one line of JSON with its id, type and key.
 *
 * <p>Needs kafka-clients and jackson-databind: {@code java -cp 'jars/*' Consumer.java localhost:9092 gumlet.video.status.ready}
 *
 * <ul>
 *   <li>Duplicates: a duplicate has the same key and so the same partition, which one member of the group reads. The last
 *       {@link #REMEMBERED} ids are kept in memory; ids that must survive a restart belong in a database, in one
 *       transaction with their effect, as in the Python consumer.
 *   <li>Order is per key and topic: records are handled one after another, as they are read.
 *   <li>Offsets are committed after the records are handled: records that were not handled are read again.
 *   <li>Unknown properties are ignored; a tombstone, which no topic of the bridge has, is skipped.
 *   <li>Every wire format is read: in {@code confluent} five bytes precede the JSON.
 * </ul>
 *
 * SIGTERM and SIGINT end it.
 */
public final class Consumer {
  private static final int REMEMBERED = 1_000_000;

  /** A zero byte, with which no JSON begins, and the id of the schema in a registry. */
  private static final int FRAME_BYTES = 5;

  private final ObjectMapper json = new ObjectMapper();
  private final Set<String> handled =
      Collections.newSetFromMap(
          new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
              return size() > REMEMBERED;
            }
          });

  public static void main(String[] arguments) throws IOException {
    if (arguments.length < 2) {
      System.err.println("usage: Consumer BOOTSTRAP_SERVERS TOPIC...");
      System.exit(2);
    }
    new Consumer().consume(arguments[0], Arrays.asList(arguments).subList(1, arguments.length));
  }

  private void consume(String servers, List<String> topics) throws IOException {
    Map<String, Object> settings =
        Map.of(
            "bootstrap.servers", servers,
            "group.id", "printer-" + topics.get(0),
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest");
    var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    var main = Thread.currentThread();
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  consumer.wakeup();
                  try {
                    main.join(); // so that the group is left, and not only gone from
                  } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                  }
                }));
    try (consumer) {
      consumer.subscribe(topics);
      while (true) {
        var records = consumer.poll(Duration.ofSeconds(1));
        for (var record : records) {
          handle(record);
        }
        if (!records.isEmpty()) {
          consumer.commitSync();
        }
      }
    } catch (WakeupException told) {
      // to stop
    }
  }

  private void handle(ConsumerRecord<byte[], byte[]> record) throws IOException {
    if (record.value() == null) {
      return;
    }
    String id = header(record, "ce_id");
    if (!handled.add(header(record, "ce_source") + " " + id)) {
      return;
    }
    byte[] value = record.value();
    int from = value[0] == 0 ? FRAME_BYTES : 0;
    JsonNode event = json.readTree(value, from, value.length - from);
    var line = json.createObjectNode().put("id", id).put("type", event.path("type").asText());
    line.put("key", record.key() == null ? null : new String(record.key(), StandardCharsets.UTF_8));
    System.out.println(json.writeValueAsString(line));
  }

  private static String header(ConsumerRecord<byte[], byte[]> record, String name) {
    Header header = record.headers().lastHeader(name);
    return new String(header.value(), StandardCharsets.UTF_8);
  }
}
