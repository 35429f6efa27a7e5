"""Records over librdkafka's messages."""

from __future__ import annotations

import dataclasses

import pytest
from confluent_kafka import Message
from headrace_streams.kafka.records import KafkaRecord, chunks_of, records_of
from headrace_streams.records import Record, TopicPartition


def message(offset: int, *, topic: str = "t", partition: int = 0, value: bytes | None = b"value") -> Message:
    return Message(
        topic=topic, partition=partition, offset=offset, key=b"k", value=value, headers=[("a", b"1"), ("b", None)],
        timestamp=(1, 1_795_242_458_012),
    )  # fmt: skip


def test_a_record_says_what_its_message_says_and_cannot_be_changed() -> None:
    record = KafkaRecord(message(7))
    assert isinstance(record, Record)
    assert (record.topic, record.partition, record.offset) == ("t", 0, 7)
    assert (record.key, record.value, record.timestamp_ms) == (b"k", b"value", 1_795_242_458_012)
    assert record.headers == (("a", b"1"), ("b", None))
    assert record.topic_partition == TopicPartition("t", 0)
    assert "offset=7" in repr(record)
    assert record == KafkaRecord(message(7))
    assert record != KafkaRecord(message(8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.offset = 8  # type: ignore[misc]


def test_without_headers_there_are_none() -> None:
    assert KafkaRecord(Message(topic="t", partition=0, offset=1)).headers == ()


def test_messages_are_cut_where_their_partition_changes() -> None:
    messages = [
        message(0), message(1, value=None), message(0, partition=1), message(2), message(0, topic="u"), message(3),
    ]  # fmt: skip
    chunks = chunks_of(messages)
    assert [(str(chunk.partition), [record.offset for record in chunk.records]) for chunk in chunks] == [
        ("t[0]", [0, 1]), ("t[1]", [0]), ("t[0]", [2]), ("u[0]", [0]), ("t[0]", [3]),
    ]  # fmt: skip
    assert [chunk.size for chunk in chunks] == [5, 5, 5, 5, 5], "a record without a value weighs nothing"
    assert [record.offset for record in records_of(chunks)] == [0, 1, 0, 2, 0, 3]
    assert chunks_of([]) == []
    (whole,) = chunks_of(messages[:2])
    assert records_of([whole]) is whole.records


def test_a_chunk_that_is_cut_keeps_its_records_and_its_size() -> None:
    (chunk,) = chunks_of([message(offset) for offset in range(7)])
    first = chunk.split(3)
    assert [record.offset for record in first.records] == [0, 1, 2]
    assert [record.offset for record in chunk.records] == [3, 4, 5, 6]
    assert first.size + chunk.size == 35
