"""The least that a batch consumer can do: poll() for the first message, consume(n, 0) for those behind it, commit."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, Message

from headrace_bench.children import serve
from headrace_bench.clients.tally import Clock, check_committed, check_seen

_COMMIT_SECONDS = 1.0


def looking(seen: bytearray, messages: Sequence[Message]) -> None:
    """Look at key, value and offset of each message."""
    for message in messages:
        error = message.error()
        if error is not None:
            raise RuntimeError(error)
        message.key()
        message.value()
        offset = message.offset()
        assert offset is not None
        seen[offset] += 1


def calling(seen: bytearray, messages: Sequence[Message]) -> None:
    """Call a function with key, value and offset of each message."""

    def handle(key: object, value: object, offset: int) -> None:
        seen[offset] += 1

    for message in messages:
        error = message.error()
        if error is not None:
            raise RuntimeError(error)
        offset = message.offset()
        assert offset is not None
        handle(message.key(), message.value(), offset)


_WORK: Mapping[str, Callable[[bytearray, Sequence[Message]], None]] = {"look": looking, "call": calling}


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Read all records of partition 0 once."""
    total: int = request["records"]
    batch: int = request["batch"]
    topic: str = request["topic"]
    work = _WORK[request["work"]]
    seen = bytearray(total)
    group = f"bare-{uuid.uuid4()}"
    consumer = Consumer(
        {
            "bootstrap.servers": request["bootstrap"],
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **request["properties"],
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
