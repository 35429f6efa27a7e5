"""What raises a task's level: its session, marks of its messages, detectors. Nothing lowers it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Message, Mode, Place, Privacy, TaskPhase, TaskState
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.machine import decide
from headrace_router.decide.model import Decision, DecisionContext, Submitted, WakeUp
from headrace_router.decide.sensitive_sessions import KEPT_MS, SensitiveSessions, session_mark
from headrace_router.decide.stored_answers import digest_to_look_up
from headrace_testing.routing import CLOUD, EVERYWHERE, GROQ, NOW, Desk, preferences, task

DETECTING = load_policy(None).model_copy(
    update={"detectors": {"card_number": Privacy.SENSITIVE, "iban": Privacy.INTERNAL}}
)


def known(*sessions: tuple[str, str], at: int = NOW) -> SensitiveSessions:
    found = SensitiveSessions(100, 64)
    for tenant, session in sessions:
        found.note(session_mark(tenant, session), at)
    return found


def submitted(context: DecisionContext, **fields: Any) -> TaskState:
    result = decide(None, Submitted(task(**fields), b"key", 3), context)
    assert isinstance(result, Decision)
    return result.state


def raised(state: TaskState) -> list[str]:
    trail = state.trail if state.result is None else state.result.trail
    return [step.reason for step in trail if step.step == "raised"]


def test_a_task_of_a_sensitive_session_is_sensitive_whatever_it_asks_for() -> None:
    context = replace(Desk().context, sessions=known(("acme", "s")))
    for asked in (None, Privacy.PUBLIC, Privacy.INTERNAL):
        state = submitted(context, session="s", privacy=asked, preferred_provider="groq" if asked else None)
        assert (state.privacy, state.sensitive_session) == (Privacy.SENSITIVE, session_mark("acme", "s"))
        assert raised(state) == ["to sensitive: its session has held sensitive content"]
        assert [attempt.place for attempt in state.attempts] == [Place.LOCAL]
    for other in ({"session": "t"}, {"session": "s", "tenant": "other"}, {"session": None}):
        state = submitted(context, privacy=Privacy.PUBLIC, **other)
        assert (state.privacy, state.sensitive_session, raised(state)) == (Privacy.PUBLIC, None, [])


def test_where_only_the_cloud_could_answer_it_is_not_answered() -> None:
    only_cloud = replace(Desk(CLOUD).context, sessions=known(("acme", "s")))
    assert submitted(only_cloud, session="s", privacy=Privacy.PUBLIC).phase is TaskPhase.WAITING
    for asked in ({"model": GROQ}, {"model": GROQ, "mode": Mode.CLOUD}, {"mode": Mode.CLOUD}):
        state = submitted(only_cloud, session="s", privacy=Privacy.PUBLIC, **asked)
        assert not state.attempts, asked


def test_a_session_that_becomes_sensitive_raises_tasks_that_wait_in_it() -> None:
    desk = Desk(fleet=())
    waiting = desk.submit(session="s", privacy=Privacy.PUBLIC).state
    assert waiting.phase is TaskPhase.WAITING
    sensitive = replace(desk.context, fleet=Desk(CLOUD).context.fleet, sessions=known(("acme", "s")))
    assert not isinstance(decide(waiting, WakeUp(), sensitive), Decision)
    here = replace(sensitive, fleet=Desk(EVERYWHERE).context.fleet)
    result = decide(waiting, WakeUp(), here)
    assert isinstance(result, Decision)
    assert result.state.attempts[0].place is Place.LOCAL
    assert result.state.privacy is Privacy.SENSITIVE


def test_whatever_makes_a_task_sensitive_marks_its_session_also_when_it_is_refused() -> None:
    context = Desk(tenant=preferences(privacy_level="low")).context
    marked = session_mark("acme", "s")
    assert submitted(context, session="s", privacy=Privacy.SENSITIVE).sensitive_session == marked
    refused = submitted(context, session="s", privacy=Privacy.SENSITIVE, mode=Mode.CLOUD)
    assert (refused.phase, refused.sensitive_session) == (TaskPhase.FINISHED, marked)
    assert submitted(context, session="s", role="security_reviewer").sensitive_session == marked
    assert submitted(Desk(tenant=preferences(privacy_level="high")).context, session="s").sensitive_session == marked
    assert submitted(context, session="s").sensitive_session is None
    assert submitted(context, privacy=Privacy.SENSITIVE).sensitive_session is None, "no session"


@pytest.mark.parametrize("mark", [Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE])
@pytest.mark.parametrize("asked", [None, Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE])
def test_a_mark_of_a_message_raises_and_never_lowers(mark: Privacy, asked: Privacy | None) -> None:
    order = [Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE]
    said = (Message(role="user", content=plain("Hi")), Message(role="user", content=plain("From a tool"), privacy=mark))
    without = submitted(Desk().context, messages=said[:1], privacy=asked, session="s")
    state = submitted(Desk().context, messages=said, privacy=asked, session="s")
    assert state.privacy is max(mark, without.privacy, key=order.index)
    assert raised(state) == (
        [f"to {mark}: message 2 is marked as {mark}"] if order.index(mark) > order.index(without.privacy) else []
    )
    assert (state.sensitive_session is not None) is (state.privacy is Privacy.SENSITIVE)


def test_detectors_raise_to_the_level_that_the_policy_says_and_never_lower() -> None:
    detecting = Desk(policy=DETECTING, tenant=preferences(privacy_level="low")).context
    card, iban = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"
    state = submitted(detecting, text=f"{iban} {card}", session="s", privacy=Privacy.PUBLIC)
    assert state.privacy is Privacy.SENSITIVE
    assert raised(state) == [
        "to sensitive: card number found in message 1",
        "to internal: iban found in message 1",
    ]
    assert card[:4] not in str(state.trail)
    assert submitted(detecting, text=iban).privacy is Privacy.INTERNAL
    assert submitted(detecting, text=iban, privacy=Privacy.SENSITIVE).privacy is Privacy.SENSITIVE
    assert submitted(detecting, text="hello").privacy is Privacy.PUBLIC
    assert submitted(Desk().context, text=card, privacy=Privacy.PUBLIC).privacy is Privacy.PUBLIC, "off by default"


def test_a_raised_task_has_another_digest_and_is_asked_for_nowhere() -> None:
    sensitive = replace(Desk(policy=DETECTING).context, sessions=known(("acme", "s")))
    assert digest_to_look_up(task(), sensitive)
    assert not digest_to_look_up(task(session="s"), sensitive)
    assert not digest_to_look_up(task(text="4111111111111111"), sensitive)


# The bounded memory of sessions.


def mark(number: int) -> bytes:
    return session_mark("acme", str(number))


def test_a_session_is_sensitive_until_so_long_after_its_last_task() -> None:
    sessions = SensitiveSessions(10, 64)
    sessions.note(mark(1), NOW)
    assert sessions.has(mark(1), NOW + KEPT_MS - 1)
    assert not sessions.has(mark(1), NOW + KEPT_MS)
    sessions.note(mark(1), NOW + 5)
    sessions.note(mark(1), NOW)
    assert sessions.has(mark(1), NOW + KEPT_MS + 4), "a late record takes nothing back"
    assert not sessions.has(mark(2), NOW)


def test_what_does_not_fit_is_known_all_the_same_and_few_others_are_taken_for_it() -> None:
    sessions = SensitiveSessions(50, 2_048)
    for number in range(1_050):
        sessions.note(mark(number), NOW + number)
    assert len(sessions) == 50
    assert all(sessions.has(mark(number), NOW + KEPT_MS - 1) for number in range(1_050))
    assert sum(sessions.has(mark(number), NOW) for number in range(10_000, 20_000)) < 500


def test_filters_age_and_are_two_at_most() -> None:
    sessions = SensitiveSessions(1, 256)
    for month in range(6):
        for number in range(20):
            at = NOW + month * KEPT_MS + number
            sessions.note(mark(1_000 * month + number), at)
            assert all(sessions.has(mark(1_000 * month + before), at) for before in range(number))
    assert len(sessions._filters) <= 2
    late = NOW + 6 * KEPT_MS
    assert not sessions.has(mark(0), late)
    assert not any(sessions.has(mark(5_000 + number), late + 2 * KEPT_MS) for number in range(19))


def test_tenant_and_session_are_told_apart() -> None:
    assert session_mark("a", "b/c") != session_mark("a/b", "c")
    assert session_mark("1", "2:x/y") != session_mark("12", "x/y")
