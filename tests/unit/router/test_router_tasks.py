"""The tasks of a partition as a fold: who leads, who follows, what may serve again, what is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import EntryKind, JournalEntry, Outcome, ServedFrom, TaskPhase, TaskState, TaskStatus
from headrace_router.decide.model import Equal
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.timers import Timers
from headrace_streams.journal import JournaledDecision
from headrace_testing.routing import NOW, Desk


def live(task_id: str, phase: TaskPhase = TaskPhase.RUNNING, digest: str = "d") -> TaskState:
    desk = Desk()
    desk.submit(task_id=task_id)
    assert desk.state is not None
    topic = desk.state.work_topic if phase in (TaskPhase.RUNNING, TaskPhase.BACKING_OFF) else None
    return replace(desk.state, phase=phase, digest=digest, work_topic=topic)


def ended(
    task_id: str,
    status: TaskStatus = TaskStatus.SUCCEEDED,
    served_from: ServedFrom = ServedFrom.ATTEMPT,
    digest: str = "d",
    answer: bytes = b"yes",
) -> TaskState:
    desk = Desk()
    desk.submit(task_id=task_id)
    state = desk.end(Outcome.ANSWERED, task_id=task_id).state
    assert state.result is not None
    result = replace(state.result, status=status, served_from=served_from, answer=plain(answer.decode()))
    return replace(state, digest=digest, result=result)


def tasks(remembered: int = 10, **limits: int) -> PartitionTasks:
    return PartitionTasks(CacheLimits(**limits), remembered)


def test_the_first_of_equal_tasks_leads_until_it_ends() -> None:
    found = tasks()
    found.apply("a", live("a"))
    assert found.equal_to("d", NOW).leader == "a"
    found.apply("a", live("a", TaskPhase.BACKING_OFF))
    found.apply("b", live("b", TaskPhase.FOLLOWING))
    assert found.equal_to("d", NOW).leader == "a"
    assert (found.next_leaderless_follower("d"), found.leaderless()) == (None, [])
    found.apply("a", ended("a"))
    assert found.equal_to("d", NOW).leader is None
    assert (found.next_leaderless_follower("d"), found.leaderless()) == ("b", ["d"])


@pytest.mark.parametrize("known", [True, False], ids=["leader known", "leader compacted away"])
@pytest.mark.parametrize(
    ("status", "finish_reason"),
    [(TaskStatus.REFUSED, "refusal"), (TaskStatus.SUCCEEDED, "length"), (TaskStatus.SUCCEEDED, "stop")],
)
def test_followers_share_the_end_of_a_leader_also_if_it_is_not_kept(
    status: TaskStatus, finish_reason: str, known: bool
) -> None:
    found = tasks(bytes=1)
    if known:
        found.apply("a", live("a"))
    for name in "bc":
        found.apply(name, live(name, TaskPhase.FOLLOWING))
    end = ended("a", status)
    assert end.result is not None
    end = replace(end, result=replace(end.result, finish_reason=finish_reason))
    found.apply("a", end)
    assert found.end_for_followers("d", NOW) == end.result
    # What becomes of one of them does not take it from the others.
    found.apply("b", ended("b", TaskStatus.CANCELLED))
    assert found.end_for_followers("d", NOW) == end.result
    found.apply("c", ended("c", status, ServedFrom.COALESCED))
    assert found.end_for_followers("d", NOW) is None


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.EXPIRED, TaskStatus.CANCELLED])
def test_followers_share_no_failure_and_nothing_of_before_a_new_leader(status: TaskStatus) -> None:
    found = tasks(bytes=1)
    found.apply("a", live("a"))
    found.apply("b", live("b", TaskPhase.FOLLOWING))
    found.apply("a", ended("a", status))
    assert found.end_for_followers("d", NOW) is None
    found.apply("c", live("c", TaskPhase.FOLLOWING))
    found.apply("x", ended("x", TaskStatus.REFUSED))
    assert found.end_for_followers("d", NOW) is not None
    found.apply("b", live("b"))
    assert found.end_for_followers("d", NOW) is None


def test_followers_are_settled_one_by_one_in_the_order_they_came() -> None:
    found = tasks()
    found.apply("a", live("a"))
    for name in "bcd":
        found.apply(name, live(name, TaskPhase.FOLLOWING))
    found.apply("a", ended("a", TaskStatus.CANCELLED))
    assert found.next_leaderless_follower("d") == "b"
    found.apply("b", live("b"))
    assert found.next_leaderless_follower("d") is None
    found.apply("b", ended("b"))
    assert found.next_leaderless_follower("d") == "c"


def test_tasks_that_share_no_answer_neither_lead_nor_serve() -> None:
    found = tasks()
    found.apply("a", live("a", digest=""))
    assert found.equal_to("", NOW).leader is None
    found.apply("a", ended("a", digest=""))
    assert found.equal_to("", NOW).answer is None


def test_an_answer_serves_for_its_time() -> None:
    found = tasks(ttl=1000)
    found.apply("a", ended("a"))
    answer = found.equal_to("d", NOW + 999).answer
    assert answer is not None
    assert answer.task_id == "a"
    assert found.equal_to("d", NOW + 1000).answer is None
    assert found.equal_to("other", NOW).answer is None


@pytest.mark.parametrize("status", [status for status in TaskStatus if status is not TaskStatus.SUCCEEDED])
def test_only_success_is_kept(status: TaskStatus) -> None:
    found = tasks()
    found.apply("a", ended("a", status))
    assert found.equal_to("d", NOW).answer is None


@pytest.mark.parametrize("served_from", [ServedFrom.CACHE, ServedFrom.COALESCED])
def test_a_served_answer_does_not_renew_the_kept_one(served_from: ServedFrom) -> None:
    found = tasks(ttl=1000)
    found.apply("a", ended("a", served_from=served_from))
    assert found.equal_to("d", NOW).answer is None


def unread(task_id: str, state: TaskState) -> JournaledDecision:
    entry = JournalEntry(kind=EntryKind.DECISION, task_id=task_id, state=state, decided_at=NOW)
    return JournaledDecision(
        0, NOW, task_id, "attempt_finished", state.phase, state.digest, state.wake_at, b"x", lambda *_: entry
    )


def test_a_failure_that_is_read_on_demand_hides_no_answer() -> None:
    def left_by(*states: TaskState) -> list[Equal]:
        owner, successor = tasks(), tasks()
        for number, state in enumerate(states):
            owner.apply(str(number), state)
            successor.apply(str(number), unread(str(number), state))
        return [found.equal_to("d", NOW) for found in (owner, successor)]

    answer, later = ended("a"), ended("c", answer=b"later")
    for states, result in (
        ((answer, ended("b", TaskStatus.FAILED)), answer.result),
        ((answer, ended("b", TaskStatus.FAILED), ended("b", TaskStatus.FAILED)), answer.result),
        ((answer, later, ended("b", TaskStatus.FAILED)), later.result),
        ((ended("b", TaskStatus.FAILED),), None),
    ):
        assert left_by(*states) == [Equal(None, result)] * 2


def test_the_cache_is_bounded_by_number_and_bytes() -> None:
    by_number = tasks(entries=2)
    for name in "abc":
        by_number.apply(name, ended(name, digest=name))
    assert [by_number.equal_to(name, NOW).answer is not None for name in "abc"] == [False, True, True]
    by_bytes = tasks(bytes=10)
    for name in "abc":
        by_bytes.apply(name, ended(name, digest=name, answer=b"12345"))
    assert [by_bytes.equal_to(name, NOW).answer is not None for name in "abc"] == [False, True, True]
    by_bytes.apply("d", ended("d", digest="d", answer=b"12345678901"))
    assert by_bytes.equal_to("d", NOW).answer is None


def test_ended_tasks_leave_but_their_ids_stay_for_a_while() -> None:
    found = tasks(remembered=2)
    for name in "abc":
        found.apply(name, live(name, digest=name))
        found.apply(name, ended(name, digest=name))
    assert len(found) == 0
    assert [found.has_ended(name) for name in "abc"] == [False, True, True]


def test_phases_are_counted_and_the_waiting_known() -> None:
    found = tasks()
    found.apply("a", live("a", TaskPhase.WAITING, ""))
    found.apply("b", live("b", TaskPhase.WAITING, ""))
    found.apply("c", live("c", digest=""))
    found.apply("a", live("a", digest=""))
    assert (found.phases[TaskPhase.WAITING], found.phases[TaskPhase.RUNNING]) == (1, 2)
    assert found.waiting() == ["b"]


async def test_a_tasks_newest_time_counts() -> None:
    called: list[str] = []
    now = NOW
    timers = Timers(lambda: now, called.append)
    timers.set("a", NOW + 50)
    timers.set("b", NOW + 60)
    timers.set("a", NOW + 70)
    timers.set("c", NOW + 10)
    timers.set("c", None)
    assert len(timers) == 2
    now = NOW + 65
    timers._fire()
    assert called == ["b"]
    now = NOW + 70
    timers._fire()
    assert called == ["b", "a"]
    assert len(timers) == 0
    timers.close()
