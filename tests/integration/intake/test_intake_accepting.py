"""What "accepted" means: Kafka has acknowledged it, and nothing else is waited for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from headrace_streams.memory import NetworkRequest, Operation
from headrace_testing.intake_bed import Bed, silence
from headrace_testing.waiting import eventually

T = TypeVar("T")
URL = "/v1/tasks"


class SlowAppends:
    """A way to the cluster on which acknowledgements wait until they are let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.waiting = 0

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        done = perform()
        if request.operation is Operation.APPEND and not self.go_on.is_set():
            self.waiting += 1
            await self.go_on.wait()
        return done


async def test_nobody_is_told_accepted_before_kafka_has_acknowledged(bed: Bed) -> None:
    bed.router.answer = silence
    network = SlowAppends()
    intake = await bed.intake(network=network)
    network.go_on.clear()
    calls = [
        asyncio.create_task(intake.call("POST", URL, {"prompt": "Hi"})),
        asyncio.create_task(intake.call("POST", URL, {"prompt": "Ho"}, Prefer="wait=1")),
    ]

    async def both_wait() -> bool:
        return network.waiting == len(calls)

    await eventually(both_wait)
    await asyncio.sleep(0.3)
    assert not any(call.done() for call in calls)
    network.go_on.set()
    assert [(await call)[0] for call in calls] == [202, 202]


async def test_who_gets_no_acknowledgement_in_time_is_told_that_nobody_knows(bed: Bed) -> None:
    network = SlowAppends()
    intake = await bed.intake(network=network, ack_seconds=0.3)
    network.go_on.clear()
    status, problem, headers = await intake.call("POST", URL, {"prompt": "Hi"})
    assert (status, problem["type"]) == (503, "urn:headrace:problem:accept-uncertain")
    assert problem["task_id"] == headers["X-Headrace-Task-Id"]
    network.go_on.set()
    # It was there all the time, under the id that the caller was told.
    await bed.router.until(lambda: [seen.task.task_id for seen in bed.router.tasks] == [problem["task_id"]])


@asynccontextmanager
async def silent_postgres() -> AsyncIterator[str]:
    """A server that takes connections and never says a word, as behind a firewall that drops packets."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    try:
        yield f"postgresql://u:p@127.0.0.1:{listening.getsockname()[1]}/x"
    finally:
        listening.close()


async def test_requests_without_a_key_never_wait_for_postgres(bed: Bed) -> None:
    async with (
        silent_postgres() as dsn,
        bed.running(database_url=dsn, database_timeout_seconds=5.0) as intake,
    ):
        began = time.monotonic()
        for number in range(5):
            status, task, _ = await intake.call("POST", URL, {"prompt": f"Hi {number}"}, Prefer="wait=5")
            assert (status, task["answer"]) == (200, f"Echo: Hi {number}")
            assert (await intake.call("GET", f"{URL}/{task['id']}"))[0] == 200
        chat = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
        assert (await intake.call("POST", "/v1/chat/completions", chat))[0] == 200
        assert time.monotonic() - began < 4.0, "something waited for Postgres"
        assert intake.health.ready().ok
        status, problem, _ = await intake.call("POST", URL, {"prompt": "Hi"}, Idempotency_Key="k")
        assert (status, problem["type"]) == (503, "urn:headrace:problem:database-unavailable")
