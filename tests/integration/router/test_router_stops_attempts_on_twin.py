"""What the router tells workers of cancelled tasks: once decided, whatever happens to routers and topics meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
from headrace_contracts.events import (
    AttemptsCancelled,
    Outcome,
    Place,
    Privacy,
    TaskCancelled,
    TaskStatus,
    TaskSubmitted,
)
from headrace_contracts.headers import header
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_SUBMITTED, cancelled_topic
from headrace_testing import routing
from headrace_testing.lasting import troubles
from headrace_testing.router_twin import PREFIX, WORK, Twin, Wire, end_of, key_of, now_ms

LOCAL, CLOUD = cancelled_topic(Place.LOCAL), cancelled_topic(Place.CLOUD)


def tasks(count: int, **given: Any) -> list[TaskSubmitted]:
    now = now_ms()
    return [
        routing.task(f"task-{number}", f"What of {number}?", submitted_at=now, allow_cached=False, **given)
        for number in range(count)
    ]


def told(twin: Twin, place: Place) -> Sequence[tuple[str, str]]:
    """Task and tenant of each record, in order of their offsets."""
    return [(event.task_id, event.tenant) for event in twin.written(cancelled_topic(place))]


async def sent_out(twin: Twin, count: int) -> None:
    await twin.until(lambda: sum(len(twin.written(spec)) for spec in WORK) == count)


async def test_each_kind_of_worker_hears_of_its_own_attempts_only() -> None:
    async with Twin(partitions=2) as twin:
        twin.router()
        local, remote, both, untold = (
            routing.task("local", "a?", submitted_at=now_ms(), privacy=Privacy.SENSITIVE),
            routing.task("remote", "b?", submitted_at=now_ms(), privacy=Privacy.PUBLIC, model=routing.GROQ),
            routing.task("both", "c?", submitted_at=now_ms(), privacy=Privacy.PUBLIC),
            routing.task("untold", "d?", submitted_at=now_ms(), privacy=Privacy.SENSITIVE),
        )
        twin.nodes = {str(number): node for number, node in enumerate(routing.EVERYWHERE)}
        for router in twin.routers:
            for key, node in twin.nodes.items():
                router.world.node_changed(key, node)
        await twin.submit(local, remote, both, untold)
        await sent_out(twin, 4)
        (request,) = [r for spec in WORK for r in twin.written(spec) if r.task_id == "both"]
        await twin.result(request, end_of(request, Outcome.FAILED_PERMANENT), key_of(both))
        await sent_out(twin, 5)
        for task in (local, remote, both):
            await twin.cancel(task)
        await twin.until_completed([local, remote, both])
        await twin.quiet()
        assert sorted(told(twin, Place.LOCAL)) == [("both", "acme"), ("local", "acme")]
        assert sorted(told(twin, Place.CLOUD)) == [("both", "acme"), ("remote", "acme")]
        assert "untold" not in twin.completed()


@pytest.mark.parametrize("crash_after", [False, True], ids=["before it is written", "after it is written"])
@pytest.mark.parametrize("count", [1, 5])
async def test_the_next_owner_tells_what_the_last_one_had_decided(crash_after: bool, count: int) -> None:
    async with Twin(partitions=1) as twin:
        first = twin.router(wire=Wire(crash_on=PREFIX + LOCAL.name, crash_after=crash_after))
        sent = tasks(count)
        await twin.submit(*sent)
        await sent_out(twin, count)
        for task in sent:
            await twin.cancel(task)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        before = told(twin, Place.LOCAL)
        twin.router()
        await twin.until_completed(sent)
        await twin.quiet()
        assert {found[0].status for found in twin.completed().values()} == {TaskStatus.CANCELLED}
        assert {task_id: len(found) for task_id, found in twin.completed().items()} == {t.task_id: 1 for t in sent}
        assert set(told(twin, Place.LOCAL)) == {(task.task_id, "acme") for task in sent}
        assert len(told(twin, Place.LOCAL)) - len(before) <= count, "each is repeated at most once"
        names = [header(record.headers, "ce_id") for record in twin.cluster.records(PREFIX + LOCAL.name)]
        assert set(names) == {f"{task.task_id}/cancelled/local" for task in sent}, "a repeat has the same id"


async def test_requests_that_are_repeated_or_come_too_late_are_passed_on_once_or_not_at_all() -> None:
    async with Twin(partitions=1) as twin:
        twin.router()
        cancelled, answered = tasks(2)
        await twin.submit(cancelled, answered)
        await sent_out(twin, 2)
        for _ in range(3):
            await twin.cancel(cancelled)
        (request,) = [r for spec in WORK for r in twin.written(spec) if r.task_id == answered.task_id]
        await twin.result(request, end_of(request), key_of(answered))
        await twin.until_completed([cancelled, answered])
        for _ in range(2):
            await twin.cancel(answered)
        await twin.quiet()
        assert told(twin, Place.LOCAL) == [(cancelled.task_id, "acme")]
        assert twin.completed()[answered.task_id][0].status is TaskStatus.SUCCEEDED


async def test_two_tenants_tasks_with_one_id_are_told_apart() -> None:
    """Whoever chooses ids and partitions can give a task the id of somebody else's, and cancel it."""
    async with Twin(partitions=2) as twin:
        twin.router()
        (victim,) = tasks(1)
        await twin.publish(TASKS_SUBMITTED, victim, "victim", b"k", 0)
        await twin.publish(TASKS_SUBMITTED, routing.task(victim.task_id, tenant="mallory"), "copy", b"k", 1)
        await sent_out(twin, 2)
        for tenant, partition in (("mallory", 0), ("mallory", 1)):
            request = TaskCancelled(task_id=victim.task_id, tenant=tenant, requested_at=now_ms())
            await twin.publish(TASKS_CANCELLED, request, "request", b"k", partition)
        await twin.until(lambda: bool(twin.completed()))
        await twin.quiet()
        assert told(twin, Place.LOCAL) == [(victim.task_id, "mallory")]
        assert [end.tenant for end in twin.completed()[victim.task_id]] == ["mallory"]


async def test_while_its_topic_takes_nothing_the_task_ends_and_the_word_waits_for_the_next_owner() -> None:
    async with Twin(partitions=1) as twin:
        first = twin.router()
        sent = tasks(3)
        await twin.submit(*sent)
        await sent_out(twin, 3)
        twin.cluster.denied.add(PREFIX + LOCAL.name)
        for task in sent:
            await twin.cancel(task)
        await twin.until_completed(sent)
        await twin.until(lambda: any("3 cancel" in said for said in troubles(first)))
        assert told(twin, Place.LOCAL) == []
        await first.kill()
        twin.router("r2", static=False)
        await asyncio.sleep(0.2)
        twin.cluster.denied.clear()
        await twin.until(lambda: set(told(twin, Place.LOCAL)) == {(task.task_id, "acme") for task in sent})


async def test_a_topic_that_is_too_small_holds_nothing_up() -> None:
    async with Twin(partitions=1) as twin:
        twin.router()
        sent = tasks(3)
        await twin.submit(*sent)
        await sent_out(twin, 3)
        twin.cluster.record_limits[PREFIX + LOCAL.name] = 20
        for task in sent:
            await twin.cancel(task)
        await twin.until_completed(sent)
        (more,) = tasks(4)[3:]
        twin.work()
        await twin.submit(more)
        await twin.until_completed([more])
        assert told(twin, Place.LOCAL) == []


def test_what_is_told_is_no_more_than_workers_need() -> None:
    assert {field.name for field in fields(AttemptsCancelled)} == {"task_id", "tenant", "number", "cancelled_at"}
