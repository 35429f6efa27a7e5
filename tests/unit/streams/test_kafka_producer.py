"""The producer gives up before librdkafka does, so that nothing is sent a second time under new sequence numbers."""

import asyncio
import logging
import time

import pytest
from headrace_streams.errors import AppendUncertain, RecordRefused
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
        async with asyncio.timeout(5.0):
            await producer.close()
    assert not any("is being replaced" in line for line in caplog.messages)
