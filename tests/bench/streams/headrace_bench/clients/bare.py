"""The least that a batch consumer can do: poll() for the first message, consume(n, 0) for those behind it, commit."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import TaskCancelled

from headrace_bench.children import serve
from headrace_bench.clients.hop import prepared_codec
from headrace_bench.clients.tally import Clock, check_committed, check_seen

_COMMIT_SECONDS = 1.0

Work = Callable[[bytearray, Sequence[Message]], None]


def _offset_of(message: Message) -> int:
    error = message.error()
    if error is not None:
        raise KafkaException(error)
    offset = message.offset()
    assert offset is not None
    return offset


def _look(seen: bytearray, messages: Sequence[Message]) -> None:
    for message in messages:
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        message.key()
        message.value()
        offset = message.offset()
        assert offset is not None
        seen[offset] += 1


def _call(seen: bytearray, messages: Sequence[Message]) -> None:
    def handle(key: object, value: object, offset: int) -> None:
        seen[offset] += 1

    for message in messages:
        handle(message.key(), message.value(), _offset_of(message))


def _decoding(codec: Codec, topic: str) -> Work:
    def decode(seen: bytearray, messages: Sequence[Message]) -> None:
        for message in messages:
            offset = _offset_of(message)
            codec.decode(TaskCancelled, message.value(), Origin(topic, 0, offset))
            seen[offset] += 1

    return decode


def _work_of(request: Mapping[str, Any]) -> Work:
    if request["work"] == "decode":
        return _decoding(asyncio.run(prepared_codec("")), request["topic"])
    return {"look": _look, "call": _call}[request["work"]]


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Read all records of partition 0 once."""
    total: int = request["records"]
    batch: int = request["batch"]
    topic: str = request["topic"]
    work = _work_of(request)
    seen = bytearray(total)
    group = f"bare-{uuid.uuid4()}"
    consumer = Consumer(
        {
            "bootstrap.servers": request["bootstrap"],
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    clock = Clock()
    count = 0
    next_commit = 0.0
    while count < total:
        first = consumer.poll(1.0)
        if first is None:
            continue
        if count == 0:
            clock.start()
        messages = [first, *consumer.consume(batch - 1, 0)]
        work(seen, messages)
        count += len(messages)
        now = time.monotonic()
        if now > next_commit:
            consumer.commit(asynchronous=True)
            next_commit = now + _COMMIT_SECONDS
    clock.stop()
    consumer.commit(asynchronous=False)
    consumer.close()
    check_seen(seen)
    check_committed(request["bootstrap"], group, {topic: total})
    return clock.answer(total)


if __name__ == "__main__":
    serve(play)
