"""What a tenant may have out in a topic of attempts: who waits for its turn, and what that is to the task."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.events import (
    CommandKind,
    Failure,
    Lane,
    Outcome,
    Place,
    Privacy,
    TaskPhase,
    TaskState,
    TaskStatus,
    Usage,
)
from headrace_router.decide.attempt_windows import AttemptWindow, AttemptWindows, OutNow
from headrace_router.decide.model import AttemptEnded, Ignored, Submitted, WakeUp
from headrace_router.decide.tenant_quota import size_of
from headrace_testing.routing import LOCAL, NOW, TASK_ID, Desk, NoPeers, finished, preferences, task, without

WINDOW = AttemptWindow(attempts=2, bytes=100_000)
FULL = OutNow(attempts=2, bytes=5_000)
HERE = "work.local.batch"


def desk(out: OutNow = FULL, **fields: object) -> Desk:
    return Desk(window=WINDOW, peers=NoPeers(outside=out), fleet=fields.pop("fleet", (LOCAL,)), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("out", "goes"),
    [
        (OutNow(), True),
        (OutNow(1, 5_000), True),
        (OutNow(2, 5_000), False),
        (OutNow(1, 99_000), False),
        (OutNow(1, 5_000, "another"), False),
        (OutNow(1, 5_000, TASK_ID), True),
        (OutNow(0, 0, "another"), False),
    ],
    ids=["nothing", "room", "as many", "as many bytes", "another is before it", "it is next", "another, and room"],
)
def test_a_task_is_dispatched_if_there_is_room_and_nobody_is_before_it(out: OutNow, goes: bool) -> None:
    found = desk(out).submit(privacy=Privacy.SENSITIVE)
    state = found.state
    assert state.phase is (TaskPhase.RUNNING if goes else TaskPhase.WAITING)
    assert (state.work_topic, state.turn) == (HERE, 1)
    assert bool(found.commands) is goes
    assert len(state.attempts) == int(goes)


def test_one_attempt_of_any_size_may_be_out() -> None:
    large = task(text="x" * 200_000)
    assert desk(OutNow()).submit(large).state.phase is TaskPhase.RUNNING
    assert desk(OutNow(1, 1)).submit(large).state.phase is TaskPhase.WAITING


def test_what_it_waits_for_is_said_and_its_turn_changes_nothing_else() -> None:
    found = desk()
    waiting = found.submit(privacy=Privacy.SENSITIVE).state
    assert waiting.wake_at == waiting.deadline_at
    assert [(step.step, step.reason) for step in waiting.trail] == [
        ("waited", f"behind_others: its turn comes when other attempts of the tenant end that are in {HERE}")
    ]
    assert found.give(WakeUp()) == Ignored("behind_others")
    found.peers.outside = OutNow(1, 5_000, TASK_ID)
    sent = found.decide(WakeUp()).state
    assert (sent.phase, sent.work_topic, [a.number for a in sent.attempts]) == (TaskPhase.RUNNING, HERE, [1])
    ended = found.end(Outcome.ANSWERED).state
    assert ended.result is not None
    assert (ended.work_topic, ended.turn, ended.result.attempts) == (None, None, 1)


def test_a_retry_keeps_its_place() -> None:
    found = desk(OutNow())
    found.submit(privacy=Privacy.SENSITIVE)
    found.peers.outside = replace(FULL, next_task="another")
    failed = found.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="overloaded", message="later")).state
    assert (failed.phase, failed.work_topic) == (TaskPhase.BACKING_OFF, HERE)
    assert found.wake().state.phase is TaskPhase.RUNNING


def test_a_next_attempt_in_another_topic_waits_for_a_place_there_and_is_no_try() -> None:
    found = desk(OutNow(), fleet=Desk().fleet, tenant=preferences(allowed_providers=("groq",)))
    found.submit(privacy=Privacy.INTERNAL)
    found.peers.outside = FULL
    waiting = found.end(Outcome.FAILED_PERMANENT).state
    while waiting.phase is TaskPhase.RUNNING:
        waiting = found.end(Outcome.FAILED_PERMANENT).state
    assert (waiting.phase, waiting.work_topic) == (TaskPhase.WAITING, "work.cloud.batch")
    tried = len(waiting.attempts)
    found.peers.outside = OutNow()
    assert len(found.decide(WakeUp()).state.attempts) == tried + 1


def test_no_dearer_candidate_is_asked_for_being_free() -> None:
    out: dict[str, OutNow] = {HERE: FULL}

    class Peers(NoPeers):
        def out(self, tenant: str, topic: str) -> OutNow:
            return out.get(topic, OutNow())

    found = Desk(window=WINDOW, peers=Peers(), tenant=preferences(allowed_providers=("groq",)))
    assert found.submit(privacy=Privacy.INTERNAL).state.phase is TaskPhase.WAITING
    other = Desk(window=WINDOW, peers=Peers(), tenant=preferences(allowed_providers=("groq",)))
    assert other.submit(privacy=Privacy.INTERNAL, lane=Lane.INTERACTIVE).state.phase is TaskPhase.RUNNING


def test_one_that_loses_its_candidate_waits_for_one_and_no_longer_for_its_turn() -> None:
    found = desk()
    found.submit(privacy=Privacy.SENSITIVE)
    found.fleet = without(found.fleet, "ollama")
    found.peers.outside = OutNow(next_task=TASK_ID)
    lost = found.decide(WakeUp()).state
    assert (lost.phase, lost.work_topic, lost.turn) == (TaskPhase.WAITING, None, 1)
    assert lost.trail[-1].reason.startswith("no_local_capacity")
    assert found.give(WakeUp()) == Ignored("no_capacity")


def test_its_deadline_says_what_it_waited_for() -> None:
    found = desk()
    found.submit(privacy=Privacy.SENSITIVE)
    result = found.wake().state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code, result.attempts) == (TaskStatus.EXPIRED, "deadline_passed", 0)
    assert result.failure.message == (
        "the deadline passed while the task waited for its turn; it comes when other attempts of the tenant end that "
        f"are in {HERE}"
    )


def test_one_that_is_late_when_it_arrives_says_where_its_time_went() -> None:
    result = desk(OutNow()).submit(deadline_at=NOW - 1).state.result
    assert result is not None
    assert result.failure is not None
    assert result.failure.message == "the deadline passed while the task was in tasks.submitted"


def test_a_cancelled_one_has_nothing_to_stop() -> None:
    found = desk()
    found.submit(privacy=Privacy.SENSITIVE)
    ended = found.cancel()
    assert ended.state.result is not None
    assert ended.state.result.status is TaskStatus.CANCELLED
    assert CommandKind.CANCEL not in {command.kind for command in ended.commands}


def test_the_late_word_of_an_attempt_lets_nobody_go_before_its_turn() -> None:
    found = desk(OutNow(), fleet=Desk().fleet, tenant=preferences(allowed_providers=("groq",)))
    found.submit(privacy=Privacy.INTERNAL)
    found.peers.outside = FULL
    first = found.state
    assert first is not None
    while found.state is not None and found.state.phase is TaskPhase.RUNNING:
        found.wake()
    assert found.state is not None
    assert found.state.phase is TaskPhase.WAITING
    sent = found.state.attempts[0]
    nobody = finished(
        Outcome.FAILED_RETRYABLE, sent.number, provider=sent.provider, model=sent.model,
        failure=Failure(code="no_capacity", message="queued"), usage=Usage(),
    )  # fmt: skip
    found.give(AttemptEnded(nobody, Place.LOCAL))
    assert (found.state.phase, found.state.work_topic) == (TaskPhase.WAITING, "work.cloud.batch")


def test_turns_are_given_as_tasks_arrive() -> None:
    found = desk(OutNow())
    found.peers.last_turn = 41
    assert found.decide(Submitted(task(), b"key", 3)).state.turn == 42


def test_who_is_next_may_go_and_those_behind_wait() -> None:
    windows = AttemptWindows()
    size = size_of(task())
    for number in range(2):
        windows.put(f"out-{number}", "acme", HERE, size)
    windows.put("late", "acme", HERE, size, 9)
    windows.put("early", "acme", HERE, size, 3)
    windows.put("other", "globex", HERE, size, 4)
    assert windows.take_ready(WINDOW) == ["other"]
    assert windows.take_ready(WINDOW) == []
    assert windows.out("acme", HERE) == OutNow(2, 2 * size, "early")
    windows.remove("out-0")
    assert windows.take_ready(WINDOW) == ["early"]
    assert sorted(windows.ready(WINDOW)) == ["early", "other"]
    windows.remove("early")
    windows.put("early", "acme", HERE, size)
    assert windows.take_ready(WINDOW) == []
    windows.remove("early")
    assert windows.take_ready(WINDOW) == ["late"]
    assert windows.waiting == 2


def test_one_that_does_not_fit_lets_nobody_pass_until_it_does() -> None:
    windows = AttemptWindows()
    windows.put("out", "acme", HERE, 60_000)
    windows.put("large", "acme", HERE, 60_000, 1)
    windows.put("small", "acme", HERE, 1, 2)
    assert windows.take_ready(WINDOW) == []
    assert not windows.out("acme", HERE).lets_go("small", 1, WINDOW)
    windows.remove("out")
    assert windows.take_ready(WINDOW) == ["large"]


def test_a_state_of_an_older_release_has_no_place_and_no_turn() -> None:
    state = TaskState(phase=TaskPhase.RUNNING, route_key=b"", home_partition=0)
    assert (state.work_topic, state.turn) == (None, None)
