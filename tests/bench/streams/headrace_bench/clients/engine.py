"""Our parallel engine with a handler that does nothing but look at its record, or decodes it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import TaskCancelled
from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, Handler, Ordering, ParallelConsumer, TopicLane
from headrace_streams.records import Record

from headrace_bench.children import serve
from headrace_bench.clients.hop import prepared_codec
from headrace_bench.clients.tally import Clock, check_committed, check_seen


class NoDeadLetters:
    """Nothing fails here."""

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        """Fail the round."""
        raise AssertionError(f"{record.topic}@{record.offset} was given up: {error}")


async def consume_all(
    request: Mapping[str, Any], options: EngineOptions, handler: Handler, all_done: asyncio.Event
) -> None:
    """Run the engine until all is done, stop it, and check what it has committed."""
    group = f"engine-{uuid.uuid4()}"
    engine = ParallelConsumer(
        KafkaLog({"bootstrap.servers": request["bootstrap"]}),
        group,
        [TopicLane(request["topic"])],
        handler,
        dead_letters=NoDeadLetters(),
        options=options,
    )
    running = asyncio.create_task(engine.run())
    done = asyncio.create_task(all_done.wait())
    await asyncio.wait([running, done], return_when=asyncio.FIRST_COMPLETED)
    done.cancel()
    await engine.stop()
    await running
    check_committed(request["bootstrap"], group, {request["topic"]: request["records"]})


def _looking(total: int, seen: bytearray, clock: Clock, all_done: asyncio.Event) -> Handler:
    count = 0

    def handle(record: Record) -> None:
        nonlocal count
        if not count:
            clock.start()
        record.key  # noqa: B018 - the bare consumer looks at them as well
        record.value  # noqa: B018
        seen[record.offset] += 1
        count += 1
        if count == total:
            clock.stop()
            all_done.set()

    return handle


def _looking_coroutine(total: int, seen: bytearray, clock: Clock, all_done: asyncio.Event) -> Handler:
    look = _looking(total, seen, clock, all_done)

    async def handle(record: Record) -> None:
        look(record)

    return handle


def _decoding(total: int, seen: bytearray, clock: Clock, all_done: asyncio.Event, codec: Codec) -> Handler:
    look = _looking(total, seen, clock, all_done)

    def handle(record: Record) -> None:
        codec.decode(TaskCancelled, record.value, Origin(record.topic, record.partition, record.offset))
        look(record)

    return handle


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Handle all records of partition 0 once."""

    async def run() -> None:
        all_done = asyncio.Event()
        handler: Handler
        if request["work"] == "decode":
            handler = _decoding(total, seen, clock, all_done, await prepared_codec(""))
        elif request["coroutine"]:
            handler = _looking_coroutine(total, seen, clock, all_done)
        else:
            handler = _looking(total, seen, clock, all_done)
        await consume_all(request, EngineOptions(ordering=Ordering(request["ordering"])), handler, all_done)

    total: int = request["records"]
    seen = bytearray(total)
    clock = Clock()
    asyncio.run(run())
    check_seen(seen)
    return clock.answer(total)


if __name__ == "__main__":
    serve(play)
