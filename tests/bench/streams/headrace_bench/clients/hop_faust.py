"""The hop in Faust: an agent that updates a table and sends a reply, at least once."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import faust
from headrace_contracts.errors import Origin
from headrace_contracts.events import TaskCancelled
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_REPLIES

from headrace_bench.clients.hop import decide, prepared_codec, say_ready, when_input_ends


async def main(request: Mapping[str, Any], folder: str) -> None:
    """Serve until standard input ends; Faust insists on a folder."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    when_input_ends(lambda: loop.call_soon_threadsafe(stopped.set))
    codec = await prepared_codec(request["prefix"])
    app = faust.App(
        f"{request['prefix']}hop",
        broker=f"kafka://{request['bootstrap']}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        value_serializer="json",
        datadir=folder,
        consumer_auto_offset_reset="earliest",
        **request["settings"],
    )
    cancellations = app.Table("cancellations", default=int, partitions=1)
    replies = app.topic(codec.topic_prefix + TASKS_REPLIES.name, key_serializer="raw", value_serializer="raw")
    incoming = app.topic(codec.topic_prefix + TASKS_CANCELLED.name, key_serializer="raw", value_serializer="raw")

    async def hop(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            cancellation = codec.decode(
                TaskCancelled, event.value, Origin(message.topic, message.partition, message.offset)
            )
            decision = decide(cancellations[cancellation.task_id], cancellation, time.time_ns() // 1_000_000)
            cancellations[cancellation.task_id] = decision.cancellations
            await replies.send(
                key=cancellation.task_id.encode(), value=codec.encode(TASKS_REPLIES, decision.reply), partition=0
            )

    app.agent(incoming, name="hop")(hop)
    await app.start()
    while not app.assignor.assigned_actives():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.1)
    say_ready()
    await stopped.wait()
    await app.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-faust-") as name:
        asyncio.run(main(json.loads(sys.stdin.readline()), name))
