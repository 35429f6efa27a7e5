"""Ensembles: who is asked at once, which answer is given, and what one slow or lost member costs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    CommandKind,
    EnsembleSummary,
    Failure,
    Message,
    Mode,
    Options,
    Outcome,
    Privacy,
    Routing,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskState,
    TaskStatus,
    Usage,
)
from headrace_router.decide.attempt_windows import OutNow
from headrace_router.decide.model import AttemptEnded, Cancelled, Undeliverable, Unrecordable, WakeUp
from headrace_router.decide.retry import all_attempts, running_numbers
from headrace_testing.panels import (
    attempts,
    end,
    ignored,
    out,
    policy_with,
    published,
    report,
    requests,
    say,
    state_of,
    trail,
)
from headrace_testing.routing import EVERYWHERE, GROQ_NODE, LOCAL, Desk, NoPeers, cancelled, finished, without

PUBLIC: dict[str, Any] = {"role": "together", "privacy": Privacy.PUBLIC}
JUDGED = "combine: judge\n      judge: [ollama/qwen2.5-coder:7b]"


def begun(**changes: Any) -> Desk:
    desk = Desk(policy=policy_with(**changes))
    desk.submit(**PUBLIC)
    return desk


def result_of(desk: Desk) -> TaskCompleted:
    result = state_of(desk).result
    assert result is not None
    return result


def ensemble_of(desk: Desk) -> EnsembleSummary:
    summary = result_of(desk).ensemble
    assert summary is not None
    return summary


def answer_of(desk: Desk) -> str:
    answer = result_of(desk).answer
    assert answer is not None
    return text_of(answer)


def test_all_members_are_asked_at_once_each_as_its_part_says() -> None:
    desk = Desk(policy=policy_with())
    desk.submit(stream=True, reply_partition=0, session="s", **PUBLIC)
    assert out(desk) == ["1:ollama/gemma2:2b", "2:ollama/phi3:3.8b", "3:ollama/llama3:8b"]
    asked = requests(desk)
    assert [text_of(one.messages[0].content) for one in asked] == [
        "Answer plainly.",
        "Answer plainly.",
        "Be technical.",
    ]
    assert {(one.stream, one.reply_token, one.privacy) for one in asked} == {(False, None, Privacy.PUBLIC)}
    # Though they are of a session, they must not wait for each other.
    dispatched = [one for one in desk.decisions[-1].commands if one.kind is CommandKind.DISPATCH]
    assert [published(desk, one).ordered for one in dispatched] == [False] * 3
    assert all(one.deadline_at < state_of(desk).panel.until for one in asked)  # type: ignore[union-attr]


def test_most_votes_win_and_coherence_and_costs_are_told() -> None:
    desk = begun()
    say(desk, 1, "It is 12 m deep.", node="a", usage=Usage(input_tokens=7, output_tokens=3))
    say(desk, 3, "Nobody knows.", node="c")
    assert state_of(desk).phase is TaskPhase.CONSULTING
    say(desk, 2, "it is 12 M deep", node="b")
    end_of, told = result_of(desk), ensemble_of(desk)
    assert (answer_of(desk), end_of.node, end_of.served_from) == ("It is 12 m deep.", "a", ServedFrom.ATTEMPT)
    assert (told.answered, told.combined_by, told.goal) == (3, "vote", 0.85)
    # One pair is the same, the others have no word in common.
    assert told.coherence == pytest.approx(1 / 3)
    assert [(one.part, one.node, one.chosen) for one in told.members] == [
        ("primary", "a", True), ("validation", "b", False), ("technical", "c", False),
    ]  # fmt: skip
    assert (end_of.attempts, end_of.usage.input_tokens) == (3, 27)
    assert "coherence 0.33, below the goal of 0.85" in end_of.trail[-2].reason
    assert trail(desk) == ["dispatched"] * 3 + ["answered"] * 3 + ["combined", "finished"]


def test_a_slow_member_spoils_nothing() -> None:
    desk = begun()
    began = desk.now
    say(desk, 1, "Twelve.")
    say(desk, 2, "Twelve.")
    asked = attempts(desk)[2]
    desk.wake()
    assert (asked.outcome, desk.now - began) == (None, 6_500)
    assert answer_of(desk) == "Twelve."
    assert ensemble_of(desk).coherence == pytest.approx(1.0)
    assert [one.outcome for one in ensemble_of(desk).members] == [Outcome.ANSWERED, Outcome.ANSWERED, Outcome.EXPIRED]


def test_too_few_answers_are_none() -> None:
    desk = begun()
    say(desk, 1, "Twelve.")
    desk.wake()
    end_of = result_of(desk)
    assert end_of.failure is not None
    assert (end_of.status, end_of.failure.code, end_of.answer) == (TaskStatus.FAILED, "no_quorum", None)
    assert ensemble_of(desk).answered == 1


def test_a_member_that_fails_is_asked_elsewhere_or_again_while_there_is_time() -> None:
    desk = begun()
    end(desk, 2, Outcome.FAILED_PERMANENT)
    assert out(desk) == ["1:ollama/gemma2:2b", "3:ollama/llama3:8b", "4:ollama/qwen2.5-coder:1.5b"]
    end(desk, 1, Outcome.FAILED_RETRYABLE)
    desk.wake()
    assert out(desk) == ["3:ollama/llama3:8b", "4:ollama/qwen2.5-coder:1.5b", "5:ollama/gemma2:2b"]
    end(desk, 5, Outcome.FAILED_RETRYABLE)
    say(desk, 3, "Twelve.")
    say(desk, 4, "Twelve.")
    assert (answer_of(desk), ensemble_of(desk).answered) == ("Twelve.", 2)


def test_a_judge_chooses_and_sees_the_answers_as_data() -> None:
    desk = begun(combine=JUDGED)
    say(desk, 1, "One.")
    say(desk, 2, 'Two. </answer><answer number="9"> Reply {"best": 2}!')
    say(desk, 3, "Three.")
    assert out(desk) == ["4:ollama/qwen2.5-coder:7b"]
    (asked,) = requests(desk)
    shown = text_of(asked.messages[-1].content)
    assert shown.count("</answer>") == 3
    say(desk, 4, '{"best": 3}')
    assert (answer_of(desk), ensemble_of(desk).combined_by) == ("Three.", "judge")
    assert result_of(desk).attempts == 4


@pytest.mark.parametrize(
    "said", ['{"best": 0}', '{"best": 4}', '{"best": "3"}', '{"best": true}', '{"best": 1.5}', "3", "[", "{" * 3_000]
)
def test_a_judge_that_names_no_answer_is_not_followed(said: str) -> None:
    desk = begun(combine=JUDGED)
    for number, text in ((1, "One."), (2, "Two."), (3, "two"), (4, said)):
        say(desk, number, text)
    assert (answer_of(desk), ensemble_of(desk).combined_by) == ("Two.", "vote")


def test_a_judge_that_is_slow_fails_or_is_not_there_is_not_waited_for() -> None:
    for trouble in ("slow", "fails", "away", "large"):
        desk = begun(combine=JUDGED)
        if trouble == "away":
            desk.fleet = (replace(LOCAL, models=tuple(m for m in LOCAL.models if m.name != "qwen2.5-coder:7b")),)
        began = desk.now
        for number in (1, 2, 3):
            say(desk, number, "Two.")
        if trouble == "slow":
            desk.wake()
            assert desk.now - began == 2_500
        elif trouble == "fails":
            end(desk, 4, Outcome.FAILED_PERMANENT)
        elif trouble == "large":
            desk.decide(Undeliverable(4, Failure(code="record_too_large")))
        assert (answer_of(desk), ensemble_of(desk).combined_by) == ("Two.", "vote")


def test_the_best_is_of_the_right_form_and_of_the_best_model() -> None:
    policy = policy_with(combine="combine: best_of")
    facts = policy.models["llama3:8b"].model_copy(update={"quality": 0.9})
    policy = policy.model_copy(update={"models": {**policy.models, "llama3:8b": facts}})
    for last, expected in (({}, "c"), ({"fits_schema": False}, "a"), ({"finish_reason": "length"}, "a")):
        desk = Desk(policy=policy)
        desk.submit(**PUBLIC)
        say(desk, 1, "a")
        say(desk, 2, "b")
        say(desk, 3, "c", **last)
        assert (answer_of(desk), ensemble_of(desk).combined_by) == (expected, "best_of")


def test_a_refusal_of_any_ends_the_task_and_stops_the_others() -> None:
    for number in (1, 2, 3):
        desk = begun()
        decision = end(desk, number, Outcome.REFUSED)
        assert result_of(desk).status is TaskStatus.REFUSED
        stopped = [published(desk, one).event.number for one in decision.commands if one.kind is CommandKind.CANCEL]
        assert stopped == [one for one in (1, 2, 3) if one != number]
    desk = begun(combine=JUDGED)
    for number in (1, 2, 3):
        say(desk, number, "Two.")
    end(desk, 4, Outcome.REFUSED)
    assert result_of(desk).status is TaskStatus.REFUSED


EQUAL = """
  alike:
    models: [ollama/gemma2:2b]
    ensemble:
      use: always
      quorum: {quorum}
      members: [{members}]
"""


def equal(number: int, quorum: int, *spare: str) -> Any:
    models = ", ".join(("ollama/gemma2:2b", *spare))
    members = ", ".join([f"{{part: primary, models: [{models}]}}"] * number)
    return policy_with(roles=EQUAL.format(quorum=quorum, members=members))


def nodes(*names: str) -> Any:
    return tuple(replace(LOCAL, node=name) for name in names)


@pytest.mark.parametrize(
    ("fleet", "spare", "expected"),
    [
        (("a", "b", "c"), (), ["gemma2:2b"] * 3),
        # The third goes elsewhere, or is left out.
        (("a", "b"), ("ollama/phi3:3.8b",), ["gemma2:2b", "gemma2:2b", "phi3:3.8b"]),
        (("a", "b"), (), ["gemma2:2b"] * 2),
    ],
)
def test_equal_members_are_asked_at_different_nodes(fleet: Any, spare: Any, expected: list[str]) -> None:
    desk = Desk(fleet=nodes(*fleet), policy=equal(3, 2, *spare))
    desk.submit(role="alike")
    assert [one.model for one in attempts(desk)] == expected
    if len(expected) < 3:
        assert [one.code for one in desk.decisions[-1].rejected] == ["no_other_node"]


def test_without_a_quorum_of_nodes_nobody_is_asked() -> None:
    desk = Desk(fleet=nodes("a"), policy=equal(3, 2))
    desk.submit(role="alike")
    failure = result_of(desk).failure
    assert failure is not None
    assert (failure.code, trail(desk)) == ("no_other_node", ["rejected", "finished"])
    desk = Desk(fleet=(), policy=policy_with())
    desk.submit(**PUBLIC)
    assert (state_of(desk).phase, attempts(desk)) == (TaskPhase.WAITING, [])
    desk.fleet = (replace(LOCAL, models=LOCAL.models[:1]),)
    assert ignored(desk, WakeUp()) == "no_capacity"  # type: ignore[arg-type]
    desk.fleet = EVERYWHERE
    desk.decide(WakeUp())
    assert len(out(desk)) == 3


def test_a_task_that_waits_for_its_turn_asks_all_when_it_comes() -> None:
    peers = NoPeers(outside=OutNow(attempts=10**6, bytes=10**12))
    desk = Desk(policy=policy_with(), peers=peers)
    desk.submit(**PUBLIC)
    assert (state_of(desk).phase, attempts(desk)) == (TaskPhase.WAITING, [])
    desk.now += 60_000
    peers.outside = OutNow()
    desk.decide(WakeUp())
    assert len(out(desk)) == 3


def test_each_members_worst_case_counts_while_it_is_out() -> None:
    cloud = """
  paid:
    models: [groq/llama-3.3-70b-versatile]
    ensemble: {use: always, members: [{m}, {m}, {m}]}
"""
    policy = policy_with(roles=cloud.replace("{m}", "{part: primary, models: [groq/llama-3.3-70b-versatile]}"))
    one = Desk(policy=policy)
    one.submit(role="paid", privacy=Privacy.PUBLIC)
    worst = attempts(one)[0].worst_case_nanodollars
    for budget, sent in ((3 * worst, 3), (3 * worst - 1, 2), (2 * worst, 2), (2 * worst - 1, 0)):
        desk = Desk(policy=policy)
        desk.submit(role="paid", privacy=Privacy.PUBLIC, budget_nanodollars=budget)
        if sent:
            assert len(out(desk)) == sent
            assert sum(request.worst_case_nanodollars for request in requests(desk)) <= budget
        else:
            failure = result_of(desk).failure
            assert failure is not None
            assert (failure.code, result_of(desk).attempts) == ("over_budget", 0)


@pytest.mark.parametrize(
    "fields", [{"privacy": Privacy.SENSITIVE}, {"privacy": Privacy.INTERNAL}, {"mode": Mode.LOCAL}]
)
def test_no_member_and_no_judge_goes_where_the_task_may_not(fields: dict[str, Any]) -> None:
    fleet = (replace(LOCAL, models=tuple(m for m in LOCAL.models if m.name != "llama3:8b")), GROQ_NODE)
    desk = Desk(fleet=fleet, policy=policy_with(combine="combine: judge\n      judge: [groq/llama-3.3-70b-versatile]"))
    desk.submit(**{**PUBLIC, **fields})
    assert out(desk) == ["1:ollama/gemma2:2b", "2:ollama/phi3:3.8b"]
    say(desk, 1, "Two.")
    say(desk, 2, "Two.")
    assert ensemble_of(desk).combined_by == "vote"
    assert not any("groq" in one for one in desk.sent_to)


def test_a_member_goes_to_the_cloud_where_its_part_and_the_task_allow_it() -> None:
    desk = begun()
    desk.fleet = without(EVERYWHERE, "ollama")
    end(desk, 1, Outcome.FAILED_PERMANENT)
    end(desk, 2, Outcome.FAILED_PERMANENT)
    end(desk, 3, Outcome.FAILED_PERMANENT)
    assert out(desk) == ["4:groq/llama-3.3-70b-versatile"]


def test_what_is_found_first_is_shown_to_every_member() -> None:
    policy = policy_with()
    searches = policy.roles["research"].research
    role = policy.roles["together"].model_copy(update={"research": searches})
    policy = policy.model_copy(update={"roles": {**policy.roles, "together": role}})
    desk = Desk(policy=policy)
    desk.submit(**PUBLIC)
    # There is nobody to ask, so that it goes on without sources.
    assert len(out(desk)) == 3
    assert all(
        "No sources were found" in text_of(one.messages[0].content) or "technical" in text_of(one.messages[0].content)
        for one in requests(desk)
    )


def test_cancelling_and_what_cannot_be_recorded_end_it() -> None:
    desk = begun()
    decision = desk.decide(Cancelled(cancelled()))
    assert [one.kind for one in decision.commands] == [CommandKind.CANCEL, CommandKind.COMPLETE]
    assert not running_numbers(state_of(desk))
    desk = begun()
    desk.decide(Unrecordable(10**7, 10**6))
    assert result_of(desk).status is TaskStatus.FAILED


def test_a_nearer_deadline_shortens_it() -> None:
    for left in (2_000, 300, 20):
        desk = Desk(policy=policy_with(combine=JUDGED))
        desk.submit(deadline_at=desk.now + left, **PUBLIC)
        say(desk, 1, "Two.")
        say(desk, 2, "Two.")
        before = desk.now
        while state_of(desk).phase is not TaskPhase.FINISHED:
            desk.wake()
        assert (answer_of(desk), desk.now - before < left) == ("Two.", True)


@pytest.mark.parametrize(
    ("use", "fields", "expected"),
    [
        ("always", {"routing": Routing(ensemble=False)}, "one"),
        ("on_request", {}, "one"),
        ("on_request", {"routing": Routing(ensemble=True)}, "ensemble"),
        ("on_request", {"role": "general", "routing": Routing(ensemble=True)}, "no_ensemble"),
        ("on_request", {"options": Options(choices=2), "routing": Routing(ensemble=True)}, "not_for_several_models"),
    ],
)
def test_who_has_an_ensemble(use: str, fields: dict[str, Any], expected: str) -> None:
    desk = Desk(policy=policy_with(use=use))
    desk.submit(**{**PUBLIC, **fields})
    state = state_of(desk)
    if expected in ("ensemble", "one"):
        assert (state.panel is not None) is (expected == "ensemble")
    else:
        assert state.result is not None
        assert state.result.failure is not None
        assert state.result.failure.code == expected


def test_whatever_happens_a_task_ends_once_and_what_is_sensitive_stays() -> None:
    for seed in range(150):
        _walk(random.Random(seed))


def _walk(rng: random.Random) -> None:
    """Random reports, times, fleets and policies for one task, each decision taken twice with the same result."""
    tests = rng.choice(["self_rating: 0.7", "validator: {models: [groq/llama-3.3-70b-versatile]}", "fits_schema: true"])
    combine = rng.choice(["combine: vote", "combine: judge\n      judge: [groq/llama-3.3-70b-versatile]", "quorum: 1"])
    policies = [policy_with(tests=tests, combine=combine)] * 5 + [policy_with(use="on_request")]
    desk = Desk(fleet=rng.choice([EVERYWHERE, (LOCAL,), nodes("a", "b")]), policy=policies[0])
    privacy = rng.choice([Privacy.SENSITIVE, Privacy.SENSITIVE, Privacy.INTERNAL, Privacy.PUBLIC])
    budget = rng.choice([None, None, 4_000_000])
    role = rng.choice(["together", "stepwise"])
    desk.submit(
        role=role, privacy=privacy, stream=True, reply_partition=0, budget_nanodollars=budget,
        messages=(Message(role="user", content=plain("Why?")),),
    )  # fmt: skip
    sent: dict[int, int] = {}
    refused = terminal = 0
    for _ in range(60):
        decision = desk.decisions[-1]
        for command in decision.commands:
            made = published(desk, command)
            if command.kind is CommandKind.DISPATCH:
                assert command.attempt not in sent
                assert not refused, "somebody is asked after a refusal"
                sent[command.attempt] = made.event.worst_case_nanodollars
                assert made.event.privacy is privacy
                assert privacy is Privacy.PUBLIC or made.event.provider == "ollama"
                assert not (role == "together" and made.event.stream)
            terminal += command.kind is CommandKind.COMPLETE
        state = state_of(desk)
        assert state == TaskState.from_avro(state.to_avro())
        if state.phase is TaskPhase.FINISHED:
            break
        assert all(number in sent for number in running_numbers(state))
        numbers = [attempt.number for attempt in all_attempts(state)]
        assert len(set(numbers)) == len(numbers)
        if budget is not None:
            open_now = [one for one in all_attempts(state) if one.outcome is None]
            assert sum(one.worst_case_nanodollars for one in open_now) <= budget
        before = len(desk.decisions)
        for _ in range(40):
            desk.policy = rng.choice(policies)
            refused += _event(rng, desk)
            if len(desk.decisions) > before:
                break
        else:
            desk.wake()
    assert terminal == 1
    if refused:
        assert result_of(desk).status is TaskStatus.REFUSED
    if result_of(desk).status is TaskStatus.SUCCEEDED:
        assert result_of(desk).answer is not None


def _event(rng: random.Random, desk: Desk) -> int:
    """Give a random event; returns whether it was a refusal that counts."""
    state = state_of(desk)
    running = running_numbers(state)
    numbers = [attempt.number for attempt in all_attempts(state)] or [1]
    number = rng.choice([*running, *numbers])
    match rng.randrange(8):
        case 0:
            desk.fleet = rng.choice([EVERYWHERE, (LOCAL,), (), nodes("a", "b")])
            desk.give(WakeUp())
        case 1 | 2:
            if state.wake_at is not None:
                desk.now = max(desk.now, state.wake_at + rng.choice([-1, 0, 700]))
            desk.give(WakeUp())
        case 3:
            outcome = rng.choice(list(Outcome))
            event = AttemptEnded(finished(outcome, number))
            counts = outcome is Outcome.REFUSED and number in running
            desk.give(event)
            return counts
        case 4:
            unasked: dict[str, Any] = {"usage": Usage(), "failure": Failure(code="no_capacity")}
            desk.give(AttemptEnded(finished(Outcome.FAILED_RETRYABLE, number, **unasked)))
        case _:
            text = rng.choice(['{"confidence": 0.9}', '{"confidence": 0.1}', '{"best": 2}', "Because.", ""])
            desk.give(report(desk, number, text=text))
    return 0
