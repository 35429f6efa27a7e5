"""Our parallel engine with a handler that does nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, Handler, Lane, Ordering, ParallelConsumer
from headrace_streams.records import Record

from headrace_bench.children import serve
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
        KafkaLog({"bootstrap.servers": request["bootstrap"], **request["properties"]}),
        group,
        [Lane(request["topic"])],
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


def plain(total: int, seen: bytearray, clock: Clock, all_done: asyncio.Event) -> Callable[[Record], None]:
    """Does nothing but count."""
    count = 0

    def handle(record: Record) -> None:
        nonlocal count
        seen[record.offset] += 1
        count += 1
        if count == 1:
            clock.start()
        if count == total:
            clock.stop()
            all_done.set()

    return handle


def coroutine(
    total: int, seen: bytearray, clock: Clock, all_done: asyncio.Event
) -> Callable[[Record], Awaitable[None]]:
    """The same as an async function that waits for nothing."""
    count = 0

    async def handle(record: Record) -> None:
        nonlocal count
        seen[record.offset] += 1
        count += 1
        if count == 1:
            clock.start()
        if count == total:
            clock.stop()
            all_done.set()

    return handle


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Handle all records of partition 0 once."""

    async def run() -> None:
        all_done = asyncio.Event()
        make = coroutine if request["coroutine"] else plain
        options = EngineOptions(ordering=Ordering(request["ordering"]), **request["options"])
        await consume_all(request, options, make(total, seen, clock, all_done), all_done)

    total: int = request["records"]
    seen = bytearray(total)
    clock = Clock()
    asyncio.run(run())
    check_seen(seen)
    return clock.answer(total)


if __name__ == "__main__":
    serve(play)
