"""Who has an attempt out, and who is next: counted while tasks come and go, it is what a recount finds, also after
takeovers."""

from __future__ import annotations

from headrace_contracts.events import TaskPhase, TaskState
from headrace_router.decide.attempt_windows import AttemptWindow, OutNow
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.decide.tenant_quota import size_of
from headrace_streams.journal import JournaledDecision
from headrace_streams.journal_reading import outline_of_task
from headrace_testing.routing import NOW, task
from hypothesis import given, settings
from hypothesis import strategies as st

IDS = [f"task-{number}" for number in range(7)]
TOPICS = ("work.local.interactive", "work.cloud.batch")
TASKS = {name: task(name, "x" * (n * 500), tenant=("acme", "globex")[n % 2]) for n, name in enumerate(IDS)}
TURNS = {name: 10 - number for number, name in enumerate(IDS)}
LIVE = [phase for phase in TaskPhase if phase is not TaskPhase.FINISHED]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(IDS),
        st.sampled_from([*LIVE, TaskPhase.WAITING, TaskPhase.RUNNING, TaskPhase.FINISHED]),
        st.sampled_from([None, *TOPICS]),
        st.sampled_from(["decided", "decided", "taken over"]),
    ),
    max_size=50,
)
WINDOW = AttemptWindow(attempts=2, bytes=9_000)


def state(task_id: str, phase: TaskPhase, topic: str | None) -> TaskState:
    ended = phase is TaskPhase.FINISHED
    placed = phase in (TaskPhase.RUNNING, TaskPhase.BACKING_OFF, TaskPhase.WAITING)
    return TaskState(
        phase=phase, task=None if ended else TASKS[task_id], route_key=b"", home_partition=0, wake_at=NOW,
        work_topic=topic if placed else None, turn=None if ended else TURNS[task_id],
    )  # fmt: skip


def unread(task_id: str, found: TaskState) -> JournaledDecision:
    """As a recovery reads it."""
    outline = ("", 0) if found.task is None else outline_of_task(found.task.to_avro())
    return JournaledDecision(
        0, NOW, task_id, "wake_up", found.phase, found.digest, found.wake_at, b"", lambda *_: None, *outline,  # type: ignore[arg-type]
        found.work_topic, found.turn,
    )  # fmt: skip


def recount(states: dict[str, TaskState], tenant: str, topic: str) -> OutNow:
    here = {name: each for name, each in states.items() if each.work_topic == topic and TASKS[name].tenant == tenant}
    waiting = {name: each for name, each in here.items() if each.phase is TaskPhase.WAITING}
    out = [name for name in here if name not in waiting]
    return OutNow(
        len(out), sum(size_of(TASKS[name]) for name in out), min(waiting, key=TURNS.__getitem__, default=None)
    )


@given(steps=STEPS)
@settings(max_examples=300, deadline=None)
def test_windows_are_what_a_recount_finds(steps: list[tuple[str, TaskPhase, str | None, str]]) -> None:
    tasks = PartitionTasks(CacheLimits(), 3)
    states: dict[str, TaskState] = {}
    journal: list[tuple[str, TaskState]] = []
    ready: set[str] = set()
    for task_id, phase, topic, how in steps:
        found = state(task_id, phase, topic)
        journal.append((task_id, found))
        states.pop(task_id, None)
        if phase is not TaskPhase.FINISHED:
            states[task_id] = found
        tasks.apply(task_id, found)
        if how == "taken over":
            tasks = PartitionTasks(CacheLimits(), 3)
            for each, of_each in journal:
                tasks.apply(each, unread(each, of_each))
        windows = {(tenant, name): recount(states, tenant, name) for tenant in ("acme", "globex") for name in TOPICS}
        assert {name: tasks.out(*name) for name in windows} == windows
        may_go = {
            out.next_task
            for out in windows.values()
            if out.next_task is not None and out.has_room(size_of(TASKS[out.next_task]), WINDOW)
        }
        # Whoever may go has been named since it may, and nobody is named in vain.
        told = set(tasks.take_ready(WINDOW))
        assert told <= may_go
        ready = (ready & may_go) | told
        assert ready == may_go
        assert tasks.behind_others == sum(each.work_topic is not None and each.phase is TaskPhase.WAITING
                                          for each in states.values())  # fmt: skip
        assert set(tasks.ready(WINDOW)) == may_go
        assert tasks.last_turn >= max((TURNS[name] for name in states), default=0)
