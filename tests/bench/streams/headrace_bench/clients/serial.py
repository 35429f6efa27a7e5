"""What a plain consumer does: poll() and consume(n, 0), and the work of one record after the other."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from headrace_bench.children import serve
from headrace_bench.clients.tally import Clock, check_committed, check_seen, work_seconds

_COMMIT_SECONDS = 1.0
_BATCH = 500


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Handle the first records of partition 0."""
    total: int = request["records"]
    topic: str = request["topic"]
    seen = bytearray(total)
    group = f"serial-{uuid.uuid4()}"
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
        for message in [first, *consumer.consume(min(_BATCH, total - count) - 1, 0)]:
            value, offset = message.value(), message.offset()
            assert value is not None
            assert offset is not None
            if seconds := work_seconds(value):
                time.sleep(seconds)
            seen[offset] += 1
            count += 1
            now = time.monotonic()
            if now > next_commit:
                consumer.commit(offsets=[TopicPartition(topic, 0, offset + 1)], asynchronous=True)
                next_commit = now + _COMMIT_SECONDS
    clock.stop()
    consumer.commit(offsets=[TopicPartition(topic, 0, total)], asynchronous=False)
    consumer.close()
    check_seen(seen)
    check_committed(request["bootstrap"], group, {topic: total})
    return clock.answer(total)


if __name__ == "__main__":
    serve(play)
