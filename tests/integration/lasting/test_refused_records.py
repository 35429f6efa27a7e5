"""Records that topics refuse for as long as nobody mends it: what they concern ends, and everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    EntryKind,
    Lane,
    Message,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
)
from headrace_contracts.ids import new_id
from headrace_contracts.topics import AUDIT_RECORDED, TASKS_COMPLETED, TASKS_SUBMITTED, WORK_LOCAL_INTERACTIVE
from headrace_router import service
from headrace_router.decide.model import Submitted
from headrace_streams.records import TopicPartition
from headrace_testing.lasting import troubles
from headrace_testing.router_twin import PREFIX, Router, Twin, Wire, end_of, key_of, now_ms

PARTITIONS = 4
BIG: dict[str, Any] = {"largest_entry": 4_000_000}


def tasks(count: int, **fields: Any) -> list[TaskSubmitted]:
    return [
        TaskSubmitted(
            **{
                "task_id": new_id(),
                "tenant": "acme",
                "messages": (Message(role="user", content=plain(f"question {number} {new_id()}")),),
                "allow_cached": False,
                "lane": Lane.INTERACTIVE,
                "submitted_at": now_ms(),
                **fields,
            }
        )
        for number in range(count)
    ]


def ends(twin: Twin, about: Sequence[TaskSubmitted]) -> list[TaskCompleted]:
    """The terminal states of these tasks, of which each has exactly one."""
    completed = twin.completed()
    found = [completed.get(task.task_id, []) for task in about]
    assert [len(each) for each in found] == [1] * len(about)
    return [each[0] for each in found]


async def all_succeed(twin: Twin, sent: Sequence[TaskSubmitted]) -> None:
    # Counted first: to decode all of them again and again would take longer than what is tested.
    await twin.until(lambda: len(twin.cluster.records(PREFIX + TASKS_COMPLETED.name)) >= len(sent))
    await twin.until_completed(sent)
    assert {end.status for end in ends(twin, sent)} == {TaskStatus.SUCCEEDED}


def answering(size: int, about: Sequence[TaskSubmitted]) -> Any:
    long = {task.task_id for task in about}

    def answer(request: AttemptRequested) -> AttemptFinished:
        if request.task_id not in long:
            return end_of(request)
        return end_of(request, content=plain("x" * size))

    return answer


async def started(twin: Twin, router: Router) -> Router:
    await twin.until(lambda: len(router.service.partitions) == PARTITIONS)
    return router


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", "t" * 1_500_000), ("tenant", ""), ("tenant", "a\x00b"), ("user", "u" * 1_500_000),
        ("session", "s" * 300_000), ("subject", "\x00"), ("submitted_at", 1_760_000_000_000_000), ("submitted_at", 0),
        ("budget_nanodollars", -1), ("labels", {"l": "v" * 500_000}),
    ],
)  # fmt: skip
async def test_an_invalid_task_stops_nobody_else(field: str, value: Any) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        await started(twin, twin.router(**BIG))
        bad = tasks(2, **{field: value})
        good = tasks(24)
        await asyncio.gather(*(twin.publish(TASKS_SUBMITTED, task, task.task_id, b"key") for task in bad))
        await twin.submit(*good)
        await all_succeed(twin, good)
        await twin.until_completed(bad)
        failures = [end.failure for end in ends(twin, bad)]
        assert {None if failure is None else failure.code for failure in failures} == {"invalid_request"}
        assert all(failure is not None and failure.message.startswith(field) for failure in failures)
        # The same again after a restart, and nothing is repeated.
        await twin.routers[0].kill()
        await started(twin, twin.router("r2", static=False, **BIG))
        more = tasks(12)
        await twin.submit(*more)
        await all_succeed(twin, more)
        assert len(ends(twin, bad)) == 2


@pytest.mark.parametrize("size", [1_500_000, 1_000_000, 400_000])
async def test_what_an_older_release_has_recorded_does_not_stop_a_takeover(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took whatever was submitted, so its journals may command records that no topic takes."""

    def unchecked(task: TaskSubmitted, key: bytes | None, home: int, trace: str | None, _: int) -> Submitted:
        return Submitted(task, key or b"", home, trace)

    monkeypatch.setattr(service, "admitted_task", unchecked)
    async with Twin(partitions=PARTITIONS) as twin:
        for topic in (AUDIT_RECORDED.name, TASKS_COMPLETED.name):
            twin.cluster.record_limits[PREFIX + topic] = 300_000
        old = await started(twin, twin.router(wire=Wire(crash_on=PREFIX + AUDIT_RECORDED.name), **BIG))
        bad = tasks(2, tenant="t" * size)
        await asyncio.gather(*(twin.publish(TASKS_SUBMITTED, task, task.task_id, key_of(task)) for task in bad))
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) >= 2)
        await old.kill()
        twin.work()
        await started(twin, twin.router("r2", static=False, **BIG))
        good = tasks(24)
        await twin.submit(*good)
        await all_succeed(twin, good)
        await twin.until_completed(bad)
        for end in ends(twin, bad):
            assert end.failure is not None
            assert (end.failure.code, len(end.tenant)) == ("record_too_large", 200)
        assert {event.task_id for event in twin.written(AUDIT_RECORDED)} == {task.task_id for task in good}


@pytest.mark.parametrize("task_id", ["", "\x00", "x" * 1_000_000])
async def test_what_has_no_id_is_a_dead_letter(task_id: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        await started(twin, twin.router())
        (bad,) = tasks(1, task_id=task_id)
        await twin.publish(TASKS_SUBMITTED, bad, "event", b"key")
        good = tasks(24)
        await twin.submit(*good)
        await all_succeed(twin, good)
        await twin.until(lambda: len(twin.cluster.records(PREFIX + "tasks.submitted.dlq")) == 1)
        assert not twin.completed().keys() - {task.task_id for task in good}


@pytest.mark.parametrize("known", [True, False], ids=["known limit", "lowered limit"])
@pytest.mark.parametrize(("limit", "size"), [(1_048_588, 1_500_000), (300_000, 400_000), (20_000, 3_000_000)])
async def test_an_answer_that_is_too_large_ends_its_task(limit: int, size: int, *, known: bool) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        long = tasks(3, reply_partition=1)
        twin.work(answering(size, long))
        router = await started(twin, twin.router(**BIG))
        twin.cluster.record_limits[PREFIX + TASKS_COMPLETED.name] = limit
        if known:
            await router.limits.refresh()
        good = tasks(24)
        await twin.submit(*long, *good)
        await all_succeed(twin, good)
        await twin.until_completed(long)
        for end in ends(twin, long):
            assert (end.status, end.answer) == (TaskStatus.FAILED, None)
            assert end.failure is not None
            assert end.failure.code == "record_too_large"
            assert end.usage.output_tokens == 5
        # A takeover finds that they have ended.
        await router.kill()
        await started(twin, twin.router("r2", static=False, **BIG))
        more = tasks(8)
        await twin.submit(*more)
        await all_succeed(twin, more)
        ends(twin, [*long, *good])


@pytest.mark.parametrize("known", [True, False], ids=["known limit", "lowered limit"])
@pytest.mark.parametrize(("limit", "size"), [(1_048_588, 1_500_000), (100_000, 150_000), (3_000, 20_000)])
async def test_a_request_that_is_too_large_for_the_workers_topic_ends_its_task(
    limit: int, size: int, *, known: bool
) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        router = await started(twin, twin.router(**BIG))
        twin.cluster.record_limits[PREFIX + WORK_LOCAL_INTERACTIVE.name] = limit
        if known:
            await router.limits.refresh()
        (large,) = tasks(1, messages=(Message(role="user", content=plain("x" * size)),))
        good = tasks(24)
        await twin.submit(large, *good)
        await all_succeed(twin, good)
        await twin.until_completed([large])
        (end,) = ends(twin, [large])
        assert end.failure is not None
        assert end.failure.code == "record_too_large"
        assert not [request for request in twin.requests if request.task_id == large.task_id]


@pytest.mark.parametrize("trouble", ["denied", "tiny", "sick", "sick partition"])
@pytest.mark.parametrize("topic", ["tasks.replies", "audit.recorded"])
async def test_replies_and_audit_hold_no_task_up(topic: str, trouble: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        wire, name = Wire(sick_seconds=0.05), PREFIX + topic
        router = await started(twin, twin.router(wire=wire))
        match trouble:
            case "denied":
                twin.cluster.denied.add(name)
            case "tiny":
                twin.cluster.record_limits[name] = 50
            case "sick":
                wire.sick.add(name)
            case "sick partition":
                wire.sick |= {TopicPartition(name, number) for number in range(PARTITIONS)[:2]}
        sent = tasks(100, reply_partition=0)
        await twin.submit(*sent)
        await all_succeed(twin, sent)
        assert router.service.health() is None
        if trouble != "tiny" and topic == AUDIT_RECORDED.name:
            assert any(topic in trouble_said for trouble_said in troubles(router))
        # Mended, and without a restart every audit record is there.
        twin.cluster.denied.clear()
        wire.sick.clear()
        if topic == AUDIT_RECORDED.name and trouble != "tiny":
            await twin.until(lambda: not troubles(router))
            audited = {event.task_id for event in twin.written(AUDIT_RECORDED)}
            assert audited == {task.task_id for task in sent}
        ends(twin, sent)


@pytest.mark.parametrize("topic", ["tasks.replies", "audit.recorded", "work.local.interactive"])
async def test_what_waits_is_published_by_the_next_owner(topic: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        router = await started(twin, twin.router())
        twin.cluster.denied.add(PREFIX + topic)
        sent = tasks(20, reply_partition=0)
        await twin.submit(*sent)
        await twin.until(lambda: len(twin.journal()) > 2 * PARTITIONS)
        await asyncio.sleep(0.1)
        await router.kill()
        second = await started(twin, twin.router("r2", static=False))
        twin.cluster.denied.clear()
        await all_succeed(twin, sent)
        wanted = {task.task_id for task in sent}
        await twin.until(lambda: {event.task_id for event in twin.written(AUDIT_RECORDED)} == wanted)
        assert not troubles(second)


@pytest.mark.parametrize("topic", ["tasks.completed", "work.local.interactive"])
async def test_what_an_operator_has_to_mend_waits_and_says_so(topic: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        router = await started(twin, twin.router())
        twin.cluster.denied.add(PREFIX + topic)
        sent = tasks(30)
        await twin.submit(*sent)
        await twin.until(lambda: bool(troubles(router)))
        (said, *_) = troubles(router)
        assert f"{topic}: not authorised" in said
        assert not twin.completed()
        await asyncio.sleep(0.5)
        starts = [entry for entry in twin.journal() if entry.kind is EntryKind.EPOCH_START]
        assert len(starts) == PARTITIONS
        twin.cluster.denied.clear()
        await all_succeed(twin, sent)
        assert len([entry for entry in twin.journal() if entry.kind is EntryKind.EPOCH_START]) == PARTITIONS


@pytest.mark.parametrize("place", ["tasks.journal", "work.local.interactive", "tasks.completed"])
async def test_a_partition_that_gives_no_answer_leaves_the_others_theirs(place: str) -> None:
    async with Twin(partitions=PARTITIONS, session_timeout=5.0) as twin:
        twin.work()
        wire = Wire()
        await started(twin, twin.router(wire=wire, in_flight=8))
        silent = TopicPartition(PREFIX + place, 0)
        wire.silent.add(silent)
        sent = tasks(200)
        await twin.submit(*sent)
        records = twin.cluster.records(PREFIX + TASKS_SUBMITTED.name)
        home = {record.key: record.partition for record in records}
        elsewhere = [task for task in sent if home[key_of(task)] != silent.partition]
        assert 100 < len(elsewhere) < 200
        if place != "work.local.interactive":
            await all_succeed(twin, elsewhere)
        else:
            # A quarter of all attempts go to the silent partition, wherever their tasks are at home.
            await twin.until(lambda: len(twin.cluster.records(PREFIX + TASKS_COMPLETED.name)) >= 0.7 * len(sent))
        wire.silent.clear()
        await all_succeed(twin, sent)


@pytest.mark.parametrize(("unpublished_bytes", "count"), [(4_000, 100), (20_000, 200), (1, 60)])
async def test_what_waits_is_bounded_and_only_its_partition_waits(unpublished_bytes: int, count: int) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        twin.work()
        router = await started(twin, twin.router(unpublished_bytes=unpublished_bytes))
        twin.cluster.denied.add(PREFIX + AUDIT_RECORDED.name)
        sent = tasks(count)
        await twin.submit(*sent)
        await twin.until(lambda: len(troubles(router)) == PARTITIONS)
        await twin.until(lambda: any("no more input is taken" in said for said in troubles(router)))
        await twin.quiet(0.3)
        assert len(twin.completed()) < count
        twin.cluster.denied.clear()
        await all_succeed(twin, sent)


async def test_no_answer_is_cut_that_fits() -> None:
    """The limit is that of the topic, and not of the entry in the journal, which holds more."""
    async with Twin(partitions=1) as twin:
        sizes = [97_000, 98_000, 99_000, 101_000]
        sent = tasks(len(sizes))
        by_id = {task.task_id: size for task, size in zip(sent, sizes, strict=True)}
        twin.work(lambda request: end_of(request, content=plain("x" * by_id[request.task_id])))
        router = twin.router(**BIG)
        twin.cluster.record_limits[PREFIX + TASKS_COMPLETED.name] = 100_000
        await router.limits.refresh()
        await twin.submit(*sent)
        await twin.until_completed(sent)
        assert [end.status is TaskStatus.SUCCEEDED for end in ends(twin, sent)] == [True, True, False, False] or [
            end.status is TaskStatus.SUCCEEDED for end in ends(twin, sent)
        ] == [True, True, True, False]
