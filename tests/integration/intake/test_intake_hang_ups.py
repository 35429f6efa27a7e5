"""Callers that hang up before the end of their task, at every API that waits or streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from headrace_intake.decide.on_disconnect import HEADER
from headrace_streams.errors import TransientError
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, FaultyNetwork, Running, Seen, StandIn, silence

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT: Any = {"model": "auto", "messages": HELLO}
WAITING = [
    ("/v1/chat/completions", CHAT, {}),
    ("/v1/chat/completions", {**CHAT, "stream": True}, {}),
    ("/v1/tasks", CHAT, {"Prefer": "wait=30"}),
    ("/v1/messages", {**CHAT, "max_tokens": 9}, {}),
    ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}, {}),
    ("/v1/responses", {"model": "auto", "input": "Hello"}, {}),
    ("/v1/completions", {"model": "auto", "prompt": "Hello"}, {}),
]


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - polls something that has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    """It does not wait for the tasks that nobody answers here."""
    async with bed.running(drain_seconds=0.05) as running:
        yield running
        for seen in bed.router.tasks:
            await bed.router.finish(seen)


async def begins(router: StandIn, seen: Seen) -> None:
    """Says something and goes on for ever."""
    await router.say(seen, "Well", 0)


class Caller:
    """One request on a connection of its own."""

    def __init__(self, intake: Running, path: str, body: Any = None, **headers: str) -> None:
        told = {
            "Authorization": f"Bearer {BOOTSTRAP_KEY}",
            **{name.replace("_", "-"): headers[name] for name in headers},
        }
        self._http = aiohttp.ClientSession(headers=told, connector=aiohttp.TCPConnector(force_close=True))
        self._asked = asyncio.create_task(self._ask(intake.url + path, body))
        self.heard = b""
        self.hears = asyncio.Event()

    async def _ask(self, url: str, body: Any) -> int:
        async with self._http.request("GET" if body is None else "POST", url, json=body) as response:
            async for piece in response.content.iter_any():
                self.heard += piece
                self.hears.set()
            return response.status

    async def answer(self) -> int:
        """The status, when all has been read."""
        status = await self._asked
        await self._http.close()
        return status

    async def hang_up(self) -> None:
        """Break the connection off."""
        self._asked.cancel()
        await asyncio.gather(self._asked, return_exceptions=True)
        await self._http.close()


async def submitted(bed: Bed, number: int = 1) -> str:
    await eventually(lambda: len(bed.router.tasks) >= number)
    return bed.router.tasks[number - 1].task.task_id


async def cancelled(bed: Bed) -> list[str]:
    """The tasks whose cancellations are in the topic, after there was time for one too many."""
    await asyncio.sleep(0.2)
    return [event.task_id for event, _ in bed.router.cancelled]


@pytest.mark.parametrize(("path", "body", "headers"), WAITING)
async def test_a_hang_up_before_the_head_of_the_answer(
    bed: Bed, intake: Running, path: str, body: Any, headers: dict[str, str]
) -> None:
    bed.router.answer = silence
    caller = Caller(intake, path, body, **headers, **{HEADER: "cancel"})
    task_id = await submitted(bed)
    await caller.hang_up()
    await eventually(lambda: bed.router.cancelled)
    assert await cancelled(bed) == [task_id]
    event, record = bed.router.cancelled[0]
    assert (event.reason, event.home_partition) == ("the caller hung up", bed.router.tasks[0].record.partition)
    assert record.key == bed.router.tasks[0].record.key
    assert intake.metrics.get_sample_value("headrace_intake_tasks_cancelled_on_disconnect_total") == 1


async def test_a_hang_up_of_a_request_for_several_tasks_cancels_all(bed: Bed, intake: Running) -> None:
    bed.router.answer = silence
    caller = Caller(intake, "/v1/completions", {"model": "auto", "prompt": ["a", "b", "c"]}, **{HEADER: "cancel"})
    await submitted(bed, 3)
    await caller.hang_up()
    await eventually(lambda: len(bed.router.cancelled) == 3)
    assert set(await cancelled(bed)) == {seen.task.task_id for seen in bed.router.tasks}


async def test_a_hang_up_in_the_middle_of_a_stream(bed: Bed, intake: Running) -> None:
    bed.router.answer = begins
    caller = Caller(intake, "/v1/chat/completions", {**CHAT, "stream": True}, **{HEADER: "cancel"})
    task_id = await submitted(bed)
    await eventually(lambda: b"Well" in caller.heard)
    await caller.hang_up()
    await eventually(lambda: bed.router.cancelled)
    assert await cancelled(bed) == [task_id]


async def test_a_hang_up_of_an_event_stream(bed: Bed, intake: Running) -> None:
    bed.router.answer = begins
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hello", "stream": True})
    caller = Caller(intake, task["links"]["events"], **{HEADER: "cancel"})
    await eventually(lambda: b"Well" in caller.heard)
    await caller.hang_up()
    await eventually(lambda: bed.router.cancelled)
    assert await cancelled(bed) == [task["id"]]


@pytest.mark.parametrize("header", [{}, {HEADER: "continue"}])
@pytest.mark.parametrize(("path", "body", "headers"), WAITING)
async def test_a_task_goes_on_by_default(
    bed: Bed, intake: Running, path: str, body: Any, headers: dict[str, str], header: dict[str, str]
) -> None:
    bed.router.answer = silence
    caller = Caller(intake, path, body, **headers, **header)
    await submitted(bed)
    await caller.hang_up()
    assert await cancelled(bed) == []


@pytest.mark.parametrize("also", ["cancel", "continue"])
async def test_a_task_for_which_another_waits_goes_on(bed: Bed, intake: Running, also: str) -> None:
    bed.router.answer = begins
    first = Caller(intake, "/v1/chat/completions", {**CHAT, "stream": True}, **{HEADER: "cancel"})
    task_id = await submitted(bed)
    second = Caller(intake, f"/v1/tasks/{task_id}/events", **{HEADER: also})
    await eventually(lambda: b"Well" in first.heard and b"Well" in second.heard)
    await first.hang_up()
    assert await cancelled(bed) == []
    await second.hang_up()
    assert await cancelled(bed) == ([task_id] if also == "cancel" else [])


@pytest.mark.parametrize(("path", "body", "headers"), WAITING)
async def test_who_was_answered_may_leave(
    bed: Bed, intake: Running, path: str, body: Any, headers: dict[str, str]
) -> None:
    caller = Caller(intake, path, body, **headers, **{HEADER: "cancel"})
    assert await caller.answer() == 200
    assert await cancelled(bed) == []


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/chat/completions", CHAT, {}, 504),
        ("/v1/chat/completions", {**CHAT, "stream": True}, {}, 200),
        ("/v1/tasks", CHAT, {"Prefer": "wait=0"}, 202),
        ("/v1/tasks", CHAT, {}, 202),
    ],
)
async def test_who_was_told_where_the_answer_will_be_has_not_hung_up(
    bed: Bed, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    bed.router.answer = silence
    intake = await bed.intake(answer_seconds=0.05, heartbeat_seconds=0.02, drain_seconds=0.05)
    caller = Caller(intake, path, body, **headers, **{HEADER: "cancel"})
    assert await caller.answer() == status
    assert await cancelled(bed) == []


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/tasks", CHAT), ("/v1/tasks/some/events", None)]
)
async def test_another_value_is_a_bad_request_and_nothing_runs(bed: Bed, intake: Running, path: str, body: Any) -> None:
    method = "GET" if body is None else "POST"
    status, problem, _ = await intake.call(method, path, body, **{HEADER: "stop"})
    assert status == 400
    assert HEADER in str(problem)
    assert bed.router.tasks == []


async def test_a_server_that_stops_hangs_up_for_nobody(bed: Bed) -> None:
    bed.router.answer = begins
    async with bed.running(drain_seconds=0.1) as intake:
        waits = Caller(intake, "/v1/chat/completions", CHAT, **{HEADER: "cancel"})
        reads = Caller(intake, "/v1/chat/completions", {**CHAT, "stream": True}, **{HEADER: "cancel"})
        await submitted(bed, 2)
        await eventually(lambda: b"Well" in reads.heard)
    await waits.hang_up()
    await reads.hang_up()
    assert await cancelled(bed) == []


async def test_a_cancellation_that_could_not_be_written_is_written_later(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_intake.hang_ups._RETRY_SECONDS", 0.05)
    bed.router.answer = silence
    network = FaultyNetwork()
    intake = await bed.intake(network=network)
    intake = await bed.intake(network=network, drain_seconds=0.05)
    caller = Caller(intake, "/v1/chat/completions", CHAT, **{HEADER: "cancel"})
    task_id = await submitted(bed)
    network.error = TransientError("no broker")
    await caller.hang_up()
    assert await cancelled(bed) == []
    network.error = None
    await eventually(lambda: bed.router.cancelled)
    assert await cancelled(bed) == [task_id]
    await bed.router.finish(bed.router.tasks[0])
