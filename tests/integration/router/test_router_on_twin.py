"""The whole router on the log's in-memory twin, with a worker that answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import topics
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    EntryKind,
    Failure,
    JournalEntry,
    Outcome,
    Privacy,
    ReplyKind,
    ServedFrom,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
)
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing import routing
from headrace_testing.odd_values import ODD, UNFORESEEN, fail_on_odd_values
from headrace_testing.router_twin import PREFIX, Twin, Wire, end_of, key_of, now_ms

CLOUD = {"groq": routing.GROQ_NODE, "anthropic": routing.ANTHROPIC_NODE}


def tasks(count: int, **fields: Any) -> list[TaskSubmitted]:
    now = now_ms()
    return [
        routing.task(f"task-{number}", f"Question {number}?", **{"submitted_at": now, "reply_partition": 0, **fields})
        for number in range(count)
    ]


def same(count: int, **fields: Any) -> list[TaskSubmitted]:
    return [replace(task, messages=routing.task().messages) for task in tasks(count, **fields)]


async def test_every_task_gets_one_answer_and_one_reply() -> None:
    async with Twin() as twin:
        twin.work()
        twin.router()
        sent = tasks(20)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet()
        completed = twin.completed()
        assert {task_id: len(found) for task_id, found in completed.items()} == {t.task_id: 1 for t in sent}
        assert all(found[0].status is TaskStatus.SUCCEEDED for found in completed.values())
        assert Counter(reply.task_id for reply in twin.replies()) == Counter(t.task_id for t in sent)
        assert all(reply.kind is ReplyKind.FINISHED for reply in twin.replies())


async def test_everything_of_a_task_stays_in_its_home_partition_under_its_key() -> None:
    async with Twin() as twin:
        twin.work()
        twin.router()
        (task,) = tasks(1)
        await twin.publish(topics.TASKS_SUBMITTED, task, task.task_id, b"\xff any key", 1)
        await twin.until_completed([task])
        (record,) = twin.cluster.records(PREFIX + "tasks.completed", 1)
        assert record.key == b"\xff any key"
        (request,) = twin.cluster.records(PREFIX + "work.local.batch")
        assert request.key == b"\xff any key"
        assert len(twin.cluster.records(PREFIX + "tasks.journal", 1)) >= 3


async def test_a_restarted_router_goes_on_where_the_last_one_stopped() -> None:
    async with Twin() as twin:
        twin.work()
        first = twin.router()
        early = tasks(5)
        await twin.submit(*early)
        await twin.until_completed(early)
        await first.stop()
        late = [replace(task, task_id=f"late-{task.task_id}", allow_cached=False) for task in early]
        await twin.submit(*late)
        twin.router()
        await twin.until_completed(late)
        await twin.quiet()
        assert all(len(found) == 1 for found in twin.completed().values())
        assert len(twin.requests) == 10


async def test_a_clean_stop_leaves_nothing_to_repeat() -> None:
    async with Twin() as twin:
        twin.work()
        router = twin.router()
        sent = tasks(5)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await router.stop()
        reached = sum(
            max(p.next_offset for e in twin.journal() for p in e.positions if (p.topic, p.partition) == (topic, number))
            for topic, number in {(p.topic, p.partition) for e in twin.journal() for p in e.positions}
        )
        assert reached == len(sent) * 2
        before = twin.count()
        twin.router()
        await asyncio.sleep(0.1)
        assert twin.count() == before


async def test_what_was_repeated_once_is_not_repeated_again() -> None:
    async with Twin(partitions=1) as twin:
        first = twin.router(wire=Wire(crash_at=2, crash_after=True))
        sent = tasks(1)
        await twin.submit(*sent)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        second = twin.router()
        await twin.until(lambda: len(twin.cluster.records(PREFIX + "work.local.batch")) == 2)
        await second.stop()
        before = twin.count()
        third = twin.router()
        await twin.until(lambda: len(third.service.partitions) == 1)
        assert twin.count() == before


async def crash_run(crash_at: int | None, *, after: bool = False) -> int:
    """Five tasks (two equal, one that fails once) past a crash; the number of appends without one."""
    async with Twin(partitions=1) as twin:
        twin.nodes |= CLOUD
        failed_once: set[str] = set()

        def sometimes_fail(request: AttemptRequested) -> AttemptFinished:
            if request.task_id == "task-1" and request.number == 1 and request.task_id not in failed_once:
                failed_once.add(request.task_id)
                return end_of(request, Outcome.FAILED_RETRYABLE)
            return end_of(request)

        twin.work(sometimes_fail)
        sent = [*tasks(2, privacy=Privacy.PUBLIC), *same(2), routing.task(text="Last?", submitted_at=now_ms())]
        sent = [replace(task, task_id=f"task-{number}") for number, task in enumerate(sent)]
        await twin.submit(*sent)
        first = twin.router(wire=Wire(crash_at=crash_at, crash_after=after))
        done = asyncio.create_task(twin.until_completed(sent))
        if crash_at is None:
            await done
            await first.stop()
            return len(first.wire.appends)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        twin.router()
        await done
        await twin.quiet(0.02)
        assert {task_id: len(found) for task_id, found in twin.completed().items()} == {t.task_id: 1 for t in sent}
        assert all(found[0].status is TaskStatus.SUCCEEDED for found in twin.completed().values())
        replied = {reply.task_id for reply in twin.replies() if reply.kind is ReplyKind.FINISHED}
        assert replied == {task.task_id for task in sent if task.reply_partition is not None}
        return 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("crash_at", range(18))
async def test_a_crash_at_any_append_loses_nothing_and_doubles_nothing(crash_at: int, after: bool) -> None:
    await crash_run(crash_at, after=after)


async def test_the_crashes_reach_from_the_first_append_to_the_last() -> None:
    appends = await crash_run(None)
    assert 18 <= appends <= 40


async def test_a_router_that_stood_still_is_replaced_and_stops_itself() -> None:
    async with Twin(partitions=1) as twin:
        old = twin.router("old", static=False)
        first = tasks(3)
        await twin.submit(*first)
        await twin.until(lambda: len(twin.cluster.records(PREFIX + "work.local.batch")) == 3)
        await twin.quiet(0.05)
        old.wire.freeze()
        twin.router("new", static=False)
        await twin.until(lambda: any(entry.owner == "new" for entry in twin.journal()))
        # Results come in while both believe to be the owner; the old one has seen none of them yet.
        twin.work()
        await twin.until_completed(first)
        old.wire.thaw()
        late = [replace(task, task_id=f"late-{task.task_id}", allow_cached=False) for task in first]
        await twin.submit(*late)
        await twin.until_completed(late)
        await twin.quiet()
        assert {len(found) for found in twin.completed().values()} == {1}


async def test_a_router_that_stood_still_while_taking_over_repeats_nothing() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        # The decision to complete is journaled, and nothing of it carried out.
        first = twin.router("first", wire=Wire(crash_on=PREFIX + "tasks.completed"), static=False)
        (task,) = tasks(1)
        await twin.submit(task)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        assert not twin.completed()
        second = twin.router("second", wire=Wire(freeze_at=1), static=False)
        await twin.until(lambda: second.wire.frozen)
        twin.router("third", static=False)
        await twin.until_completed([task])
        second.wire.thaw()
        await twin.quiet()
        assert {len(found) for found in twin.completed().values()} == {1}


async def test_what_a_zombie_had_in_flight_costs_the_new_owner_one_more_take_over() -> None:
    async with Twin(partitions=1) as twin:
        old = twin.router("old", static=False)
        await twin.until(lambda: len(twin.journal()) == 1)
        old.wire.freeze()
        sent = tasks(1)
        zombie = JournalEntry(
            kind=EntryKind.DECISION, task_id="evil", epoch=0, sequence=1, owner="old", decided_at=now_ms()
        )
        twin.router("new", static=False)
        await twin.until(lambda: twin.journal()[-1].owner == "new")
        twin.cluster.append(
            ProducerRecord(PREFIX + "tasks.journal", twin.codec.encode(topics.TASKS_JOURNAL, zombie), b"evil", 0)
        )
        twin.work()
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet()
        assert {len(found) for found in twin.completed().values()} == {1}
        assert "evil" not in twin.completed()


@pytest.mark.parametrize("error", [TransientError("lost"), AppendUncertain("no answer")], ids=["lost", "uncertain"])
@pytest.mark.parametrize(
    "topic", ["tasks.journal", "work.local.batch", "tasks.completed", "tasks.replies", "audit.recorded"]
)
async def test_a_failed_append_costs_a_recovery_and_no_task(topic: str, error: Exception) -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        wire = Wire()
        twin.router(wire=wire)
        await twin.until(lambda: len(twin.journal()) >= 1)
        wire.fail[PREFIX + topic] = [error]  # type: ignore[list-item]
        sent = tasks(3)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.until(lambda: {reply.task_id for reply in twin.replies()} == {t.task_id for t in sent})
        await twin.quiet()
        assert not wire.fail[PREFIX + topic]
        assert {task_id: len(found) for task_id, found in twin.completed().items()} == {t.task_id: 1 for t in sent}


async def test_equal_tasks_in_flight_share_one_attempt_and_later_ones_the_cache() -> None:
    async with Twin() as twin:
        twin.router()
        sent = same(5)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 5)
        twin.work()
        await twin.until_completed(sent)
        later = replace(sent[0], task_id="later")
        await twin.submit(later)
        await twin.until_completed([later])
        served = Counter(found[0].served_from for found in twin.completed().values())
        assert served == {ServedFrom.ATTEMPT: 1, ServedFrom.COALESCED: 4, ServedFrom.CACHE: 1}
        assert len(twin.requests) == 1
        audits = [event for event in twin.written(topics.AUDIT_RECORDED) if event.action == "serve_cached"]
        assert len(audits) == 5


async def test_the_cache_and_the_followers_survive_a_restart() -> None:
    async with Twin(partitions=1) as twin:
        first = twin.router()
        sent = same(3)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 3)
        await first.kill()
        second = twin.router()
        twin.work()
        await twin.until_completed(sent)
        await second.stop()
        twin.router()
        later = replace(sent[0], task_id="later")
        await twin.submit(later)
        await twin.until_completed([later])
        assert twin.completed()["later"][0].served_from is ServedFrom.CACHE
        assert {request.task_id for request in twin.requests} == {"task-0"}


async def test_when_the_leader_is_cancelled_one_follower_takes_its_place() -> None:
    async with Twin(partitions=1) as twin:
        twin.router()
        sent = same(4)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 4)
        await twin.cancel(sent[0])
        await twin.until_completed(sent[:1])
        await twin.quiet(0.05)
        assert len(twin.cluster.records(PREFIX + "work.local.batch")) == 2
        twin.work()
        await twin.until_completed(sent)
        by_status = {task_id: found[0].status for task_id, found in twin.completed().items()}
        assert by_status.pop("task-0") is TaskStatus.CANCELLED
        assert set(by_status.values()) == {TaskStatus.SUCCEEDED}
        assert Counter(found[0].source_task_id for found in twin.completed().values()) == {None: 2, "task-1": 2}


async def test_when_leaders_fail_followers_try_one_after_another() -> None:
    async with Twin(partitions=1) as twin:
        twin.work(lambda request: end_of(request, Outcome.FAILED_PERMANENT, failure=Failure(code="invalid_request")))
        twin.router()
        sent = same(4)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        assert [found[0].status for found in twin.completed().values()] == [TaskStatus.FAILED] * 4
        assert sorted(request.task_id for request in twin.requests) == [task.task_id for task in sent]


async def test_a_task_submitted_twice_runs_once() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        router = twin.router()
        (task,) = tasks(1, allow_cached=False)
        await twin.submit(task, task)
        await twin.until_completed([task])
        await twin.submit(task)
        await twin.quiet()
        await router.stop()
        twin.router()
        await twin.submit(task)
        await twin.quiet()
        assert (len(twin.completed()[task.task_id]), len(twin.requests)) == (1, 1)


async def test_a_result_that_comes_twice_counts_once() -> None:
    async with Twin(partitions=1) as twin:
        twin.router()
        (task,) = tasks(1)
        await twin.submit(task)
        await twin.until(lambda: len(twin.cluster.records(PREFIX + "work.local.batch")) == 1)
        (request,) = twin.written(topics.WORK_LOCAL_BATCH)
        for execution in ("e1", "e2"):
            await twin.result(request, end_of(request, execution_id=execution), key_of(task))
        await twin.until_completed([task])
        await twin.quiet()
        assert len(twin.completed()[task.task_id]) == 1


async def test_a_cancellation_to_stop_may_come_first() -> None:
    async with Twin(partitions=1) as twin:
        router = twin.router()
        (task,) = tasks(1)
        await twin.cancel(task)
        await twin.until(lambda: any(p.topic == "tasks.cancelled" for e in twin.journal() for p in e.positions))
        await twin.submit(task)
        await twin.until_completed([task])
        assert twin.completed()[task.task_id][0].status is TaskStatus.CANCELLED
        assert not twin.cluster.records(PREFIX + "work.local.batch")
        await router.stop()


async def test_waiting_tasks_go_as_soon_as_a_node_comes() -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {}
        twin.work()
        router = twin.router()
        sent = tasks(3, privacy=Privacy.SENSITIVE)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 3)
        await twin.quiet(0.05)
        assert not twin.requests
        router.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        await twin.until_completed(sent)


async def test_time_moves_tasks_also_after_a_restart() -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {}
        first = twin.router()
        sent = tasks(2, deadline_at=now_ms() + 400)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 2)
        await first.kill()
        twin.router()
        await twin.until_completed(sent)
        for (result,) in twin.completed().values():
            assert result.status is TaskStatus.EXPIRED
            assert result.failure is not None
            assert result.failure.code == "no_local_capacity"
            assert result.completed_at >= sent[0].deadline_at  # type: ignore[operator]


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_stops_nobody() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        first = twin.router()
        twin.cluster.append(ProducerRecord(PREFIX + "tasks.submitted", b"rubbish", b"k", 0))
        twin.cluster.append(ProducerRecord(PREFIX + "attempts.finished", None, b"k", 0))
        sent = tasks(2)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        letters = [
            *twin.written(topics.TOPICS["tasks.submitted.dlq"]),
            *twin.written(topics.TOPICS["attempts.finished.dlq"]),
        ]
        assert [(letter.error_type, letter.value) for letter in letters] == [
            ("BadBytes", b"rubbish"),
            ("NullValue", None),
        ]
        await first.stop()
        twin.router()
        await twin.submit(*(more := [replace(task, task_id=f"more-{task.task_id}") for task in sent]))
        await twin.until_completed(more)
        assert len(twin.written(topics.TOPICS["tasks.submitted.dlq"])) == 1


async def test_an_answer_too_large_for_a_record_ends_its_task_with_a_reason() -> None:
    async with Twin(partitions=1) as twin:
        from headrace_contracts.content import plain

        twin.work(lambda request: end_of(request, content=plain("x" * 20_000)))
        twin.router(largest_entry=10_000)
        (task,) = tasks(1)
        await twin.submit(task)
        await twin.until_completed([task])
        result = twin.completed()[task.task_id][0]
        assert result.failure is not None
        assert (result.status, result.failure.code, result.attempts) == (TaskStatus.FAILED, "record_too_large", 1)
        assert [reply.kind for reply in twin.replies()] == [ReplyKind.FINISHED]


async def test_content_that_left_is_audited_also_where_the_journal_cannot_hold_what_follows() -> None:
    async with Twin(partitions=1) as twin:
        left = Failure(code="answered_remotely", message="elsewhere.example " * 100)
        twin.work(lambda request: end_of(request, Outcome.FAILED_PERMANENT, failure=left))
        twin.router(largest_entry=10_000)
        (task,) = tasks(1, role="code_reviewer", privacy=Privacy.SENSITIVE)
        task = replace(task, messages=routing.task(text="x" * 8_200).messages)
        await twin.submit(task)
        await twin.until_completed([task])
        await twin.quiet()
        result = twin.completed()[task.task_id][0]
        assert result.failure is not None
        assert (result.failure.code, result.attempts) == ("record_too_large", 2)
        breaches = [event for event in twin.written(topics.AUDIT_RECORDED) if event.action == "breach"]
        assert [(event.attempt_id, event.allowed) for event in breaches] == [(f"{task.task_id}/1", False)]


async def test_partitions_move_between_routers_without_loss_or_doubles() -> None:
    async with Twin(partitions=4) as twin:
        twin.work()
        twin.router("a", static=False)
        sent = tasks(60, allow_cached=False)
        for start in range(0, 60, 10):
            await twin.submit(*sent[start : start + 10])
            await asyncio.sleep(0.02)
            if start == 10:
                second = twin.router("b", static=False)
            if start == 30:
                await second.stop()
            if start == 40:
                twin.router("c", static=False)
        await twin.until_completed(sent)
        await twin.quiet()
        assert {task_id: len(found) for task_id, found in twin.completed().items()} == {t.task_id: 1 for t in sent}


async def test_a_decision_acknowledged_too_late_is_left_to_the_next_owner() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        wire = Wire()
        twin.router("slow", wire=wire, publish_within=0.15)
        await twin.until(lambda: len(twin.journal()) >= 1)
        wire.delay[PREFIX + "tasks.journal"] = 0.2
        (task,) = tasks(1)
        await twin.submit(task)
        await twin.until_completed([task])
        await twin.quiet()
        assert len(twin.completed()[task.task_id]) == 1
        assert sum(entry.kind is EntryKind.EPOCH_START for entry in twin.journal()) == 2


async def test_few_in_flight_are_enough_for_many_tasks() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router(in_flight=3)
        sent = tasks(50)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        assert {len(found) for found in twin.completed().values()} == {1}


async def test_after_compaction_everything_is_still_known() -> None:
    async with Twin(partitions=1) as twin:
        router = twin.router()
        sent = tasks(5)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 5)
        await twin.quiet(0.05)
        await router.kill()
        twin.cluster.compact(PREFIX + "tasks.journal")
        twin.router()
        twin.work()
        await twin.until_completed(sent)
        await twin.quiet()
        assert {len(found) for found in twin.completed().values()} == {1}
        progress = twin.cluster.group(PREFIX + "router").committed_offsets[
            TopicPartition(PREFIX + "tasks.submitted", 0)
        ]
        assert progress.next_offset == 5


async def test_what_does_not_count_is_replaced_before_compaction_hides_why() -> None:
    async with Twin(partitions=1) as twin:
        old = twin.router("old", static=False)
        await twin.until(lambda: len(twin.journal()) == 1)
        old.wire.freeze()
        new = twin.router("new", static=False)
        await twin.until(lambda: twin.journal()[-1].owner == "new")
        # The entry before it was lost on the way: it stands in its place, in an epoch that has ended.
        (task,) = tasks(1)
        state = TaskState(phase=TaskPhase.WAITING, task=task, route_key=b"k", home_partition=0)
        zombie = JournalEntry(
            kind=EntryKind.DECISION, task_id=task.task_id, state=state,
            epoch=0, sequence=len(twin.journal()), owner="old", decided_at=now_ms(),
        )  # fmt: skip
        value = twin.codec.encode(topics.TASKS_JOURNAL, zombie)
        twin.cluster.append(ProducerRecord(PREFIX + "tasks.journal", value, task.task_id.encode(), 0))
        await new.kill()
        third = twin.router("third", static=False)
        await twin.until(
            lambda: any(entry.task_id == task.task_id and entry.owner == "third" for entry in twin.journal())
        )
        twin.cluster.compact(PREFIX + "tasks.journal")
        await third.kill()
        fourth = twin.router("fourth", static=False)
        await twin.until(lambda: twin.journal()[-1].owner == "fourth")
        await twin.quiet()
        (partition,) = fourth.service._membership.routers.values()  # type: ignore[union-attr]
        assert len(partition.tasks) == 0, "the zombie's decision must not come to life"


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
async def test_an_error_of_any_kind_in_reading_costs_that_record(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_on_odd_values(monkeypatch, error)
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router()
        for topic in ("tasks.submitted", "tasks.cancelled", "attempts.finished", "attempts.finished.cloud"):
            twin.cluster.append(ProducerRecord(PREFIX + topic, ODD, b"k", 0))
        sent = tasks(2)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        for topic in ("tasks.submitted", "tasks.cancelled", "attempts.finished", "attempts.finished.cloud"):
            (letter,) = twin.written(topics.TOPICS[f"{topic}.dlq"])
            assert (letter.error_type, letter.value) == (type(error).__name__, ODD)
            assert "user wrote" not in letter.error_message


@pytest.mark.parametrize("trace", [b"x" * 2_000_000, b"", b"00-xyz", b"\xff\xfe"])
async def test_a_malformed_trace_context_goes_no_further(trace: bytes) -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router()
        (task,) = tasks(1)
        await twin.submit(task)
        submitted = next(iter(twin.cluster.records(PREFIX + "tasks.submitted")))
        other = replace(task, task_id="traced")
        value = twin.codec.encode(topics.TASKS_SUBMITTED, other)
        twin.cluster.append(
            ProducerRecord(PREFIX + "tasks.submitted", value, submitted.key, 0, (("traceparent", trace),))
        )
        await twin.until_completed([task, other])
        states = [entry.state for entry in twin.journal() if entry.task_id == "traced"]
        assert states
        assert all(state is None or state.traceparent is None for state in states)
