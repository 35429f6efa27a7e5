"""Sends events to a hop and reads its replies: all at once, or so many a second whether or not replies come.

A reply's time counts from the moment its event was to be sent, so that a stall is seen by all who would have waited.
One partition in, one out: the nth reply must be that to the nth event.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from headrace_contracts.events import TaskCancelled
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_REPLIES

from headrace_bench.children import serve
from headrace_bench.clients.hop import TENANT, prepared_codec
from headrace_bench.clients.tally import NotExactly
from headrace_bench.ratios import percentile

_TASKS = 1_000
_SILENCE_SECONDS = 60.0


class Load:
    """One hop's events and replies; the replies are read on from round to round."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        codec = asyncio.run(prepared_codec(prefix))
        self._incoming = prefix + TASKS_CANCELLED.name
        self._keys = [f"0199b9d0-0000-7000-8000-{number:012d}".encode() for number in range(_TASKS)]
        self._values = [
            codec.encode(
                TASKS_CANCELLED,
                TaskCancelled(
                    task_id=key.decode(), tenant=TENANT, requested_by="somebody", requested_at=time.time_ns() // 10**6
                ),
            )
            for key in self._keys
        ]
        # Idempotent, so that a request that is sent again neither doubles events nor changes their order.
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "enable.idempotence": True})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": f"{prefix}load", "isolation.level": "read_committed"}
        )
        self._consumer.assign([TopicPartition(prefix + TASKS_REPLIES.name, 0, 0)])

    def run(self, count: int, rate: float | None) -> Mapping[str, object]:
        """Send so many events, and wait for the reply to each."""
        came: list[float] = []
        start = time.perf_counter()
        sending = threading.Thread(target=self._send, args=(count, rate, start))
        sending.start()
        last = start
        while len(came) < count:
            first = self._consumer.poll(1.0)
            now = time.perf_counter()
            if first is None:
                if now - last > _SILENCE_SECONDS:
                    raise NotExactly(f"after {len(came)} of {count} replies none came for {now - last:.0f} s")
                continue
            last = now
            for message in [first, *self._consumer.consume(1_000, 0)]:
                error = message.error()
                if error is not None:
                    raise RuntimeError(error)
                if message.key() != self._keys[len(came) % _TASKS]:
                    raise NotExactly(f"reply {len(came)} is to {message.key()!r}")
                came.append(now)
        sending.join()
        if self._consumer.poll(0.2) is not None or len(came) != count:
            raise NotExactly(f"more than {count} replies")
        answer: dict[str, object] = {"records": count, "seconds": came[-1] - start}
        if rate is not None:
            times = sorted(1000 * (time_of - start - number / rate) for number, time_of in enumerate(came))
            answer |= {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "longest_ms": times[-1]}
        return answer

    def _send(self, count: int, rate: float | None, start: float) -> None:
        for number in range(count):
            if rate is not None:
                self._producer.poll(0)
                time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            self._producer.produce(
                self._incoming, self._values[number % _TASKS], self._keys[number % _TASKS], partition=0
            )
        self._producer.flush(_SILENCE_SECONDS)


def main() -> None:
    """A round for each request, all to one hop."""
    load: Load | None = None

    def play(request: Mapping[str, Any]) -> Mapping[str, object]:
        nonlocal load
        if load is None:
            load = Load(request["bootstrap"], request["prefix"])
        return load.run(request["records"], request["rate"])

    serve(play)


if __name__ == "__main__":
    main()
