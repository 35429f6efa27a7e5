"""The producer gives up before librdkafka does, so that nothing is sent a second time under new sequence numbers."""

import asyncio
import ctypes
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import confluent_kafka
import pytest
from confluent_kafka import Producer as LibrdkafkaProducer
from headrace_streams.errors import AppendUncertain, RecordRefused, TransientError
from headrace_streams.kafka import producer as producer_module
from headrace_streams.kafka.producer import KafkaProducer
from headrace_streams.records import ProducerRecord, RecordMetadata

LOGGER = logging.getLogger("test")
TOPIC = "events"


def properties(answer_ms: int, limit_ms: int) -> dict[str, str]:
    """librdkafka's own mock brokers, which answer late."""
    return {
        "test.mock.num.brokers": "1",
        "test.mock.broker.rtt": str(answer_ms),
        "delivery.timeout.ms": str(limit_ms),
        "allow.auto.create.topics": "true",
    }


def record() -> ProducerRecord:
    return ProducerRecord(topic=TOPIC, value=b"value", key=b"key", partition=0, headers=())


async def test_what_is_not_acknowledged_in_time_is_given_up_and_the_producer_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = KafkaProducer(properties(answer_ms=20_000, limit_ms=2_000), LOGGER)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        with pytest.raises(AppendUncertain) as told:
            await producer.send(record())
        assert "purge" in str(told.value).lower()  # by us, not timed out by librdkafka
        assert time.monotonic() - began >= 1.5
        assert any("got no acknowledgement for" in line for line in caplog.messages)
        await producer.flush()
    await producer.close()


async def test_what_is_acknowledged_in_time_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    producer = KafkaProducer(properties(answer_ms=10, limit_ms=60_000), LOGGER)
    with caplog.at_level(logging.WARNING):
        results = [await producer.send(record()) for _ in range(20)]
        await producer.close()
    assert [isinstance(result, RecordMetadata) for result in results] == [True] * 20
    assert not any("is being replaced" in line for line in caplog.messages)


@pytest.mark.parametrize(
    "bad",
    [
        ProducerRecord(TOPIC, 5, partition=0),  # type: ignore[arg-type]
        ProducerRecord(TOPIC, b"value", key=object(), partition=0),  # type: ignore[arg-type]
        ProducerRecord(TOPIC, b"value", partition=2**40),
        ProducerRecord(TOPIC, b"value", partition=0, headers=(("\udc80", b"not text"),)),
        ProducerRecord(TOPIC, b"value", partition=0, headers=(("name", 5),)),  # type: ignore[arg-type]
        ProducerRecord(TOPIC, b"value", partition=0, headers=(("fine", b"1"), ("a\ud800b", None))),
        ProducerRecord(TOPIC, b"value", partition=0, headers=((5, b"1"),)),  # type: ignore[arg-type]
        ProducerRecord("\udc80", b"value", partition=0),
        ProducerRecord(TOPIC, "\udc80", partition=0),  # type: ignore[arg-type]
    ],
    ids=["value", "key", "partition", "name", "header", "second name", "number as a name", "topic", "text"],
)
async def test_what_is_no_record_is_refused_and_leaves_nothing_behind(
    bad: ProducerRecord, caplog: pytest.LogCaptureFixture
) -> None:
    producer = KafkaProducer(properties(answer_ms=10, limit_ms=1_000), LOGGER)
    with caplog.at_level(logging.WARNING):
        with pytest.raises(RecordRefused) as told:
            await producer.send(bad)
        assert "\udc80" not in str(told.value).replace(bad.topic, "")
        await asyncio.sleep(1.0)  # longer than a record may be in flight
        assert isinstance(await producer.send(record()), RecordMetadata)
        async with asyncio.timeout(30):
            await producer.close()
    assert not any("is being replaced" in line for line in caplog.messages)


class PartlySick:
    """A producer of librdkafka's some of whose partitions give no answer: in truth two of them, with a broker each."""

    sick: ClassVar[set[tuple[str, int]]] = set()

    def __init__(self, settings: dict[str, Any], logger: logging.Logger) -> None:
        self._well = LibrdkafkaProducer({**settings, "test.mock.broker.rtt": "20"}, logger=logger)
        self._ill = LibrdkafkaProducer({**settings, "test.mock.broker.rtt": "60000"}, logger=logger)

    def produce(self, topic: str, value: Any, key: Any, partition: int, **options: Any) -> None:
        chosen = self._ill if (topic, partition) in self.sick else self._well
        chosen.produce(topic, value, key, partition, **options)

    def poll(self, timeout: float) -> int:
        return self._ill.poll(0) + self._well.poll(min(timeout, 0.02))

    def purge(self) -> None:
        self._well.purge()
        self._ill.purge()

    def __len__(self) -> int:
        return len(self._well) + len(self._ill)

    def close(self) -> None:
        self._well.close()
        self._ill.close()


Place = tuple[str, int]


@pytest.mark.parametrize(
    "sick",
    [{("journal", 0)}, {("work", 2), ("work", 3)}, {("journal", 1), ("work", 0), ("work", 3)}],
    ids=lambda sick: str(sorted(sick)),
)
async def test_partitions_that_answer_lose_nothing_to_those_that_do_not(
    sick: set[Place], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(producer_module, "LibrdkafkaProducer", PartlySick)
    monkeypatch.setattr(PartlySick, "sick", sick)
    producer = KafkaProducer({**properties(20, 2_000), "statistics.interval.ms": "0"}, LOGGER)
    failed: defaultdict[Place, list[BaseException]] = defaultdict(list)
    acked: defaultdict[Place, list[int]] = defaultdict(list)
    longest = 0.0

    async def one(place: Place, number: int) -> None:
        nonlocal longest
        began = time.monotonic()
        try:
            await producer.send(
                ProducerRecord(topic=place[0], value=b"value", key=b"key", partition=place[1], headers=())
            )
        except (AppendUncertain, TransientError) as error:
            failed[place].append(error)
        else:
            acked[place].append(number)
            longest = max(longest, time.monotonic() - began)

    def replaced() -> int:
        return sum("is being replaced" in line for line in caplog.messages)

    places = [(topic, number) for topic in ("journal", "work") for number in range(4)]
    sending: list[asyncio.Task[None]] = []
    number = 0
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        # Long enough for two changes of producers, also on a machine that is busy.
        while (passed := time.monotonic() - began) < 4.5 or (replaced() < 2 and passed < 60):
            sending += [asyncio.create_task(one(place, number)) for place in places]
            number += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*sending)
    assert replaced() >= 2
    for place in places:
        if place in sick:
            assert len(failed[place]) == number
        else:
            assert not failed[place]
            # In order, also across the change from one producer to the next.
            assert acked[place] == list(range(number))
    # Nothing waits for a second change of producers, which would take 1.8 s more.
    assert longest < 3.5
    # Mended, and the same producer goes on.
    PartlySick.sick = set()
    await asyncio.sleep(2.0)
    await asyncio.gather(*(one(place, -1) for place in sick))
    assert all(acked[place] == [-1] for place in sick)
    await producer.close()


class MockCluster:
    """The brokers inside a librdkafka producer, by librdkafka's own functions for tests."""

    def __init__(self, producer: KafkaProducer) -> None:
        (library,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*")
        self._librdkafka = ctypes.CDLL(str(library))
        # The wrapping object begins with its handle.
        handle = ctypes.c_void_p.from_address(id(producer._current.producer) + object.__basicsize__)
        self._librdkafka.rd_kafka_handle_mock_cluster.restype = ctypes.c_void_p
        self._cluster = ctypes.c_void_p(self._librdkafka.rd_kafka_handle_mock_cluster(handle))

    def create(self, partitions: int) -> None:
        assert self._librdkafka.rd_kafka_mock_topic_create(self._cluster, TOPIC.encode(), partitions, 1) == 0

    def take_leader(self, partition: int) -> None:
        setting = self._librdkafka.rd_kafka_mock_partition_set_leader(self._cluster, TOPIC.encode(), partition, -1)
        assert setting == 0


@pytest.mark.parametrize(("partitions", "stuck"), [(2, {1}), (3, {0}), (4, {1, 3})])
async def test_a_partition_without_a_leader_costs_the_others_nothing(
    partitions: int, stuck: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    producer = KafkaProducer(properties(answer_ms=60, limit_ms=4_000), LOGGER)
    cluster = MockCluster(producer)
    cluster.create(partitions)
    for partition in stuck:
        cluster.take_leader(partition)
    sent: dict[int, list[asyncio.Future[RecordMetadata]]] = {partition: [] for partition in range(partitions)}
    replaced = False
    with caplog.at_level(logging.WARNING):
        while not replaced:  # at a steady rate, so that records of all partitions are in flight at any time
            for partition, futures in sent.items():
                futures.append(producer.send(ProducerRecord(topic=TOPIC, value=b"value", partition=partition)))
            await asyncio.sleep(0.01)
            replaced = any("is being replaced" in line for line in caplog.messages)
        outcomes = {
            # The new producer has brokers of its own, which lead everything.
            partition: await asyncio.gather(*(futures[:50] if partition in stuck else futures), return_exceptions=True)
            for partition, futures in sent.items()
        }
    for partition, results in outcomes.items():
        kinds = {type(result) for result in results}
        assert kinds == ({AppendUncertain} if partition in stuck else {RecordMetadata}), partition
    await producer.close()
    await asyncio.gather(*(future for futures in sent.values() for future in futures), return_exceptions=True)
