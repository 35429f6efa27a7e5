"""Headers that no client of ours would write, on real Kafka: the record arrives, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import UNREADABLE_NAME, ProducerRecord, TopicPartition
from headrace_testing.logs import Listener, LogBench, take
from headrace_testing.raw_headers import NOT_UTF8, append_raw

pytestmark = pytest.mark.stack


@pytest.fixture
async def bench(kafka: str, topic_prefix: str) -> AsyncIterator[LogBench]:
    async def forget(partition: TopicPartition, offset: int) -> None:
        raise NotImplementedError

    built = LogBench(KafkaLog({"bootstrap.servers": kafka}), topic_prefix, forget)
    yield built
    await built.close()


async def _write(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch, each: Sequence[Sequence[tuple[bytes, bytes | None]]]
) -> None:
    await append_raw(kafka, topic, monkeypatch, [(str(number).encode(), raw) for number, raw in enumerate(each)])


@pytest.mark.parametrize("reads", ["reader", "member"])
async def test_names_that_are_not_utf8_are_replaced(
    bench: LogBench, kafka: str, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    topic = await bench.topic()
    written: list[list[tuple[bytes, bytes | None]]] = []
    for name in NOT_UTF8:
        written += [
            [(name, b"1")], [(name, None)], [(b"a", b"1"), (name, b"2"), (b"b", None)], [(name, b"1"), (name, b"2")],
            [(b"a", b"1")], [],
        ]  # fmt: skip
    await _write(kafka, topic, monkeypatch, written)
    if reads == "reader":
        reader = bench.reader()
        await reader.assign({TopicPartition(topic, 0): 0})
        records = await take(reader, len(written))
    else:
        records = await take(await bench.member(topic, Listener()), len(written))
    for number, (record, headers) in enumerate(zip(records, written, strict=True)):
        expected = tuple((UNREADABLE_NAME if name in NOT_UTF8 else name.decode(), value) for name, value in headers)
        for _ in range(3):
            assert record.headers == expected
        # An exception that was left behind would be raised by one of these.
        assert (record.value, record.key, record.offset) == (str(number).encode(), b"k", number)
        assert [str(number), *map(str, range(3))] == [str(number), "0", "1", "2"]
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"", b"1")],
        [(b"", None), (b"", None)],
        [(b"a", None), (b"a", b""), (b"a", b"\xff\xfe")],
        [(b"n" * 100_000, b"1")],
        [(b"traceparent", b"x" * 900_000)],
        [(f"h{number}".encode(), b"v") for number in range(10_000)],
        [(b"\xf0\x9f\x8c\x8a", "\U0001f30a".encode())],
    ],
    ids=["empty name", "empty and null", "null value", "long name", "long value", "10,000", "UTF-8"],
)
async def test_other_unusual_headers_arrive_as_they_are(
    bench: LogBench, kafka: str, monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes | None]]
) -> None:
    topic = await bench.topic()
    await _write(kafka, topic, monkeypatch, [headers])
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    (record,) = await take(reader, 1)
    assert record.headers == tuple((name.decode(), value) for name, value in headers)
    # And they can be written again.
    await bench.producer().send(ProducerRecord(topic, b"again", partition=0, headers=record.headers))
    assert (await take(reader, 1))[0].headers == record.headers
