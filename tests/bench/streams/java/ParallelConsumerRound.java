import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Confluent's Parallel Consumer as a contestant: a round for each line of standard input, one line of JSON for each.
 *
 * <p>A record's value says how many microseconds its work waits; its key is "key-" and a number. A round that does not
 * handle every record exactly once, in key mode in order and one of a key at a time, ends the process with an error.
 */
public final class ParallelConsumerRound {
    private static final Duration JOIN = Duration.ofSeconds(60);

    private final String bootstrap;
    private final String topic;
    private final int records;
    private final ProcessingOrder ordering;
    private final int concurrency;
    private final int buffer;

    private final AtomicIntegerArray seen;
    private final AtomicIntegerArray running;
    private final AtomicLongArray last;
    private final AtomicInteger done = new AtomicInteger();
    private final AtomicReference<String> violation = new AtomicReference<>();
    private final CountDownLatch finished = new CountDownLatch(1);
    private final AtomicInteger begun = new AtomicInteger();
    private long nanos;
    private long cpuNanos;

    private ParallelConsumerRound(String[] arguments) {
        bootstrap = arguments[0];
        topic = arguments[1];
        records = Integer.parseInt(arguments[2]);
        ordering = ProcessingOrder.valueOf(arguments[3]);
        concurrency = Integer.parseInt(arguments[4]);
        int keys = Integer.parseInt(arguments[5]);
        buffer = Integer.parseInt(arguments[6]);
        seen = new AtomicIntegerArray(records);
        running = new AtomicIntegerArray(keys);
        last = new AtomicLongArray(keys);
        for (int key = 0; key < keys; key++) {
            last.set(key, -1);
        }
    }

    /** Arguments: bootstrap servers, topic, records, KEY or UNORDERED, maximum concurrency, keys, message buffer. */
    public static void main(String[] arguments) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        while (requests.readLine() != null) {
            answers.println(new ParallelConsumerRound(arguments).play());
            answers.flush();
        }
        System.exit(0);
    }

    private String play() throws Exception {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ConsumerConfig.GROUP_ID_CONFIG, "java-" + UUID.randomUUID());
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        properties.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "2000");
        KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        ParallelStreamProcessor<byte[], byte[]> processor =
                ParallelStreamProcessor.createEosStreamProcessor(
                        ParallelConsumerOptions.<byte[], byte[]>builder()
                                .consumer(consumer)
                                .ordering(ordering)
                                .maxConcurrency(concurrency)
                                .messageBufferSize(buffer)
                                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                                .build());
        processor.subscribe(List.of(topic));
        processor.poll(context -> handle(context.getSingleConsumerRecord()));
        while (!finished.await(1, java.util.concurrent.TimeUnit.SECONDS)) {
            if (processor.isClosedOrFailed()) {
                throw new IllegalStateException("the processor has failed");
            }
        }
        processor.closeDrainFirst();
        check(properties);
        return String.format(
                Locale.ROOT,
                "{\"records\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f}",
                records,
                nanos / 1e9,
                cpuNanos / 1e9);
    }

    private void handle(ConsumerRecord<byte[], byte[]> record) {
        if (begun.compareAndSet(0, 1)) {
            nanos = -System.nanoTime();
            cpuNanos = -processCpuNanos();
        }
        int key = Integer.parseInt(new String(record.key(), StandardCharsets.US_ASCII).substring(4));
        boolean ordered = ordering == ProcessingOrder.KEY;
        if (ordered && (running.getAndSet(key, 1) != 0 || last.getAndSet(key, record.offset()) >= record.offset())) {
            violation.set("key " + key + " out of order at " + record.offset());
        }
        long micros = Long.parseLong(new String(record.value(), 0, 8, StandardCharsets.US_ASCII));
        if (micros > 0) {
            try {
                Thread.sleep(micros / 1000, (int) (micros % 1000) * 1000);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
                throw new IllegalStateException(interrupted);
            }
        }
        seen.incrementAndGet((int) record.offset());
        if (ordered) {
            running.set(key, 0);
        }
        if (done.incrementAndGet() == records) {
            nanos += System.nanoTime();
            cpuNanos += processCpuNanos();
            finished.countDown();
        }
    }

    private void check(Properties properties) {
        if (violation.get() != null) {
            throw new IllegalStateException(violation.get());
        }
        for (int offset = 0; offset < records; offset++) {
            if (seen.get(offset) != 1) {
                throw new IllegalStateException("offset " + offset + " handled " + seen.get(offset) + " times");
            }
        }
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> asking =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            OffsetAndMetadata committed = asking.committed(Set.of(partition), JOIN).get(partition);
            if (committed == null || committed.offset() != records) {
                throw new IllegalStateException("committed " + committed + ", not " + records);
            }
        }
    }

    private static long processCpuNanos() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
                .getProcessCpuTime();
    }
}
