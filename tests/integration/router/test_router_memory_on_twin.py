"""A router whose memory for tasks is full, on the log's in-memory twin: tasks wait in their topic, the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.events import Privacy, TaskStatus, TaskSubmitted
from headrace_router.decide.tenant_quota import size_of
from headrace_router.inputs import InputTaker
from headrace_testing import routing
from headrace_testing.router_twin import Router, Twin, now_ms


def tasks(count: int, name: str = "t", **fields: object) -> list[TaskSubmitted]:
    return [
        routing.task(f"{name}-{number:03}", f"{name} {number:03}?", **{
            "submitted_at": now_ms(), "privacy": Privacy.SENSITIVE, "session": "one partition", **fields
        })
        for number in range(count)
    ]  # fmt: skip


ONE = size_of(tasks(1)[0])


def held(router: Router) -> int:
    return sum(status.task_bytes or 0 for status in router.service.statuses())


def requested(twin: Twin) -> list[str]:
    return [request.task_id for request in twin.requests]


async def submit(twin: Twin, submitted: Iterable[TaskSubmitted]) -> None:
    for each in submitted:
        await twin.submit(each)


async def test_tasks_wait_in_their_topic_while_ends_and_cancellations_go_on() -> None:
    # A router that a busy machine made wait would be expelled, and would send again what it had sent.
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        router = twin.router("a", live_bytes=3 * ONE, tick_seconds=60.0)
        twin.work(lambda request: None)
        sent = tasks(7)
        await submit(twin, sent)
        await twin.until(lambda: len(twin.requests) == 3)
        await twin.quiet()
        assert (requested(twin), held(router)) == (["t-000", "t-001", "t-002"], 3 * ONE)
        assert router.service.statuses()[0].put_aside > 0  # type: ignore[index]
        # One that is in flight, and one that waits.
        await twin.cancel(sent[1])
        await twin.until(lambda: requested(twin)[3:] == ["t-003"])
        await twin.cancel(sent[5])
        await twin.quiet()
        assert held(router) == 3 * ONE
        await twin.cancel(sent[0])
        await twin.until(lambda: len(twin.requests) == 5)
        await twin.cancel(sent[2])
        # The one that was cancelled before it was taken ends at once, and the next is taken.
        await twin.until(lambda: requested(twin)[5:] == ["t-006"])
        statuses = {task_id: ends[0].status for task_id, ends in twin.completed().items()}
        assert statuses == dict.fromkeys(["t-000", "t-001", "t-002", "t-005"], TaskStatus.CANCELLED)


async def test_every_task_is_taken_once_and_in_order_however_little_room_there_is() -> None:
    async with Twin(partitions=2, session_timeout=5.0) as twin:
        router = twin.router("a", live_bytes=2 * ONE)
        most = 0

        def watch() -> bool:
            nonlocal most
            most = max(most, held(router))
            return len(twin.completed()) == 60

        twin.work()
        await submit(twin, [*tasks(30), *tasks(30, "u", session="other", tenant="globex")])
        await twin.until(watch)
        assert most == 2 * ONE
        for name in ("t", "u"):
            mine = [task_id for task_id in requested(twin) if task_id.startswith(name)]
            assert mine == [f"{name}-{number:03}" for number in range(30)]


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_a_partition_with_more_than_there_is_room_for_is_taken_over(how: str) -> None:
    async with Twin(partitions=1, session_timeout=0.5) as twin:
        first = twin.router("a")
        await submit(twin, tasks(6))
        await twin.until(lambda: held(first) == 6 * ONE)
        await twin.quiet()
        await (first.kill() if how == "crash" else first.stop())
        second = twin.router("b", live_bytes=2 * ONE)
        await submit(twin, tasks(3, "u"))
        await twin.until(lambda: held(second) == 6 * ONE)
        await twin.quiet()
        assert held(second) == 6 * ONE
        twin.work()
        await twin.until(lambda: len(twin.completed()) == 9)
        assert held(second) == 0


async def test_a_registry_that_is_away_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the registry and what waits for room are taken in the order of the topic."""
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.router("a", live_bytes=2 * ONE)
        turns = 0
        take_now, take = InputTaker.take_now, InputTaker.take

        def sometimes(self: InputTaker, *given: object) -> bool:
            nonlocal turns
            turns += 1
            return turns % 3 != 0 and take_now(self, *given)  # type: ignore[arg-type]

        async def at_length(self: InputTaker, *given: object) -> Exception | None:
            nonlocal turns
            turns += 1
            await asyncio.sleep(0.001)
            if turns % 5 == 0:
                raise RegistryUnavailable("away")
            return await take(self, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(InputTaker, "take_now", sometimes)
        monkeypatch.setattr(InputTaker, "take", at_length)
        twin.work()
        await submit(twin, tasks(20))
        await twin.until(lambda: len(twin.completed()) == 20)
        assert requested(twin) == [f"t-{number:03}" for number in range(20)]
