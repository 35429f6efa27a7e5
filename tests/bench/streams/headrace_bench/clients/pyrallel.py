"""The PyPI package pyrallel-consumer; it runs in an environment of its own, without Headrace."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from pyrallel_consumer.config import (  # type: ignore[import-not-found]
    ExecutionConfig,
    KafkaConfig,
    ParallelConsumerConfig,
)
from pyrallel_consumer.consumer import PyrallelConsumer  # type: ignore[import-not-found]
from pyrallel_consumer.dto import OrderingMode, WorkItem  # type: ignore[import-not-found]

from headrace_bench.children import serve
from headrace_bench.clients.tally import Clock, KeyOrder, check_seen, work_seconds


async def _round(request: Mapping[str, Any], seen: bytearray, clock: Clock) -> None:
    total: int = request["records"]
    order = KeyOrder() if request["ordering"] == "key_hash" else None
    count = 0
    all_done = asyncio.Event()
    failure: BaseException | None = None

    async def work(item: WorkItem) -> None:
        nonlocal count, failure
        if not clock.seconds:
            clock.start()
        try:
            if order is not None:
                order.begin(item.key, item.offset)
            if seconds := work_seconds(item.payload):
                await asyncio.sleep(seconds)
            seen[item.offset] += 1
            if order is not None:
                order.end(item.key)
        except Exception as error:
            # It would be tried again; here it is the end of the round.
            failure = error
            all_done.set()
            raise
        count += 1
        if count == total:
            clock.stop()
            all_done.set()

    settings = dict(request["options"])
    execution = ExecutionConfig(max_in_flight=settings.pop("max_in_flight"))
    config = KafkaConfig(
        BOOTSTRAP_SERVERS=request["bootstrap"],
        CONSUMER_GROUP=f"pyrallel-{uuid.uuid4()}",
        dlq_enabled=False,
        parallel_consumer=ParallelConsumerConfig(
            ordering_mode=OrderingMode(request["ordering"]), execution=execution, **settings
        ),
    )
    consumer = PyrallelConsumer(config=config, worker=work, topic=request["topic"])
    await consumer.start()
    try:
        await all_done.wait()
    finally:
        await consumer.stop()
    if failure is not None:
        raise failure


def play(request: Mapping[str, Any]) -> Mapping[str, object]:
    """Handle all records of partition 0 once."""
    seen = bytearray(request["records"])
    clock = Clock()
    asyncio.run(_round(request, seen, clock))
    check_seen(seen)
    return clock.answer(request["records"])


if __name__ == "__main__":
    logging.disable(logging.INFO)
    serve(play)
