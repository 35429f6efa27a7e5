"""Our parallel engine with handlers that wait, as those do that call a model or a database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from headrace_streams.parallel import EngineOptions, Ordering
from headrace_streams.records import Record

from headrace_bench.children import serve
from headrace_bench.clients.engine import consume_all
from headrace_bench.clients.tally import Clock, KeyOrder, check_seen, work_seconds


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Handle all records of partition 0 once."""
    total: int = request["records"]
    ordering = Ordering(request["ordering"])
    order = KeyOrder() if ordering is Ordering.KEY else None
    seen = bytearray(total)
    clock = Clock()
    count = 0

    async def run() -> None:
        all_done = asyncio.Event()
        begun = False

        async def handle(record: Record) -> None:
            nonlocal begun, count
            if not begun:
                begun = True
                clock.start()
            assert record.key is not None
            assert record.value is not None
            if order is not None:
                order.begin(record.key, record.offset)
            if seconds := work_seconds(record.value):
                await asyncio.sleep(seconds)
            seen[record.offset] += 1
            if order is not None:
                order.end(record.key)
            count += 1
            if count == total:
                clock.stop()
                all_done.set()

        await consume_all(request, EngineOptions(ordering=ordering, **request["options"]), handle, all_done)

    asyncio.run(run())
    check_seen(seen)
    return clock.answer(total)


if __name__ == "__main__":
    serve(play)
