"""What tenants have in flight, counted while tasks come and go, is what a recount finds, also after takeovers."""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.events import EntryKind, JournalEntry, TaskPhase, TaskState
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.decide.tenant_quota import LiveLoad, TenantQuota, over_quota, size_of
from headrace_streams.journal import JournaledDecision
from headrace_streams.journal_reading import outline_of_task
from headrace_testing.routing import NOW, task
from hypothesis import given, settings
from hypothesis import strategies as st

LIVE = [phase for phase in TaskPhase if phase is not TaskPhase.FINISHED]
IDS = [f"task-{number}" for number in range(6)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(IDS),
        st.sampled_from([*LIVE, TaskPhase.FINISHED, TaskPhase.FINISHED]),
        st.sampled_from(["", "d1", "d2"]),
        st.sampled_from(["decided", "decided", "read", "taken over"]),
    ),
    max_size=40,
)
TASKS = {
    name: task(name, "x" * (number * 700), tenant=("acme", "globex", "initech")[number % 3], labels={"n": "ü" * number})
    for number, name in enumerate(IDS)
}


def state(task_id: str, phase: TaskPhase, digest: str) -> TaskState:
    ended = phase is TaskPhase.FINISHED
    return TaskState(
        phase=phase, task=None if ended else TASKS[task_id], digest=digest, route_key=b"", home_partition=0, wake_at=NOW
    )


def unread(task_id: str, found: TaskState) -> JournaledDecision:
    """As a recovery reads it."""
    outline = ("", 0) if found.task is None else outline_of_task(found.task.to_avro())
    entry = JournalEntry(kind=EntryKind.DECISION, task_id=task_id, state=found, decided_at=NOW)
    return JournaledDecision(
        0, NOW, task_id, "wake_up", found.phase, found.digest, found.wake_at, b"", lambda *_: entry, *outline
    )


def recount(tasks: PartitionTasks) -> dict[str, LiveLoad]:
    found: dict[str, LiveLoad] = {}
    for each in tasks.live.values():
        assert each.task is not None
        load = found.get(each.task.tenant, LiveLoad())
        found[each.task.tenant] = LiveLoad(load.tasks + 1, load.bytes + size_of(each.task))
    return found


@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_loads_are_what_a_recount_finds(steps: list[tuple[str, TaskPhase, str, str]]) -> None:
    tasks = PartitionTasks(CacheLimits(), 3)
    journal: list[tuple[str, TaskState]] = []
    for task_id, phase, digest, how in steps:
        found = state(task_id, phase, digest)
        journal.append((task_id, found))
        tasks.apply(task_id, unread(task_id, found) if how == "read" else found)
        if how == "taken over":
            tasks = PartitionTasks(CacheLimits(), 3)
            for each, of_each in journal:
                tasks.apply(each, unread(each, of_each))
        assert tasks.loads == recount(tasks)
        assert tasks.live_bytes == sum(load.bytes for load in tasks.loads.values())
        assert all(load.tasks > 0 and load.bytes > 0 for load in tasks.loads.values())
    for task_id in IDS:
        tasks.apply(task_id, state(task_id, TaskPhase.FINISHED, ""))
    assert (tasks.loads, tasks.live_bytes) == ({}, 0)


@given(
    load=st.builds(LiveLoad, st.integers(0, 5), st.integers(0, 20_000)),
    quota=st.builds(TenantQuota, st.integers(1, 5), st.integers(1, 20_000)),
    length=st.integers(1, 20_000),
)
def test_a_task_is_admitted_exactly_within_the_quota(load: LiveLoad, quota: TenantQuota, length: int) -> None:
    one = replace(TASKS[IDS[0]], messages=task(text="x" * length).messages)
    fits = load.tasks < quota.tasks and (load.tasks == 0 or load.bytes + size_of(one) <= quota.bytes)
    failure = over_quota(load, one, quota)
    assert (failure is None) == fits
    if failure is not None:
        assert failure.code == "too_many_live_tasks"
        assert failure.retry_after_ms
