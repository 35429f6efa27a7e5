"""Cascades: which answers are good enough, who is asked next, and when there is nobody left to ask."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    AnswerChoice,
    CascadeSummary,
    CommandKind,
    Failure,
    Mode,
    ModelOperation,
    ModelStatus,
    Options,
    Outcome,
    Privacy,
    ResponseFormat,
    ResponseFormatKind,
    Routing,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskStatus,
    Tool,
    Usage,
)
from headrace_router.decide.attempt_windows import OutNow
from headrace_router.decide.model import Cancelled, Equal, Undeliverable, WakeUp
from headrace_router.decide.tenant_policy import TenantPolicy, narrowed
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
from headrace_testing.routing import EVERYWHERE, GROQ_NODE, LOCAL, Desk, NoPeers, cancelled, without

SURE, UNSURE = '{"confidence": 0.9}', '{"confidence": 0.3}'
PUBLIC: dict[str, Any] = {"role": "stepwise", "privacy": Privacy.PUBLIC}


def begun(**changes: Any) -> Desk:
    desk = Desk(policy=policy_with(**changes))
    desk.submit(**PUBLIC)
    return desk


def result_of(desk: Desk) -> TaskCompleted:
    result = state_of(desk).result
    assert result is not None
    return result


def cascade_of(desk: Desk) -> CascadeSummary:
    summary = result_of(desk).cascade
    assert summary is not None
    return summary


def test_a_small_model_that_is_sure_answers() -> None:
    desk = begun()
    assert (state_of(desk).phase, out(desk)) == (TaskPhase.CONSULTING, ["1:ollama/gemma2:2b"])
    say(desk, 1, "Twelve metres.", usage=Usage(input_tokens=1_000, output_tokens=1_000))
    assert out(desk) == ["2:ollama/gemma2:2b"]
    (asked,) = requests(desk)
    assert "Twelve metres." in text_of(asked.messages[-1].content)
    assert "confidence" in text_of(asked.messages[0].content)
    assert (asked.sampling.json, asked.sampling.max_output_tokens, asked.stream) == (True, 64, False)
    say(desk, 2, f"Here: {SURE}.")
    end_of = result_of(desk)
    assert (end_of.status, end_of.model, end_of.served_from) == (TaskStatus.SUCCEEDED, "gemma2:2b", ServedFrom.ATTEMPT)
    assert end_of.answer is not None
    assert text_of(end_of.answer) == "Twelve metres."
    assert (end_of.attempts, end_of.usage.input_tokens) == (2, 1_010)
    told = cascade_of(desk)
    assert (told.rung, told.rungs, told.sufficient, told.confidence) == (1, 3, True, 0.9)
    # 1,000 tokens in at $0.59 and out at $0.79 per million, at the last rung; ours cost nothing.
    assert told.saved_nanodollars == 1_380_000
    assert trail(desk) == ["dispatched", "answered", "dispatched", "rated", "accepted", "finished"]
    assert [(one.part, one.chosen) for one in told.members] == [("rung", True), ("self_rating", False)]


def test_one_that_is_not_sure_is_followed_by_the_next_up_to_the_last_which_is_not_tested() -> None:
    desk = begun()
    say(desk, 1, "Ten?")
    say(desk, 2, UNSURE)
    assert out(desk) == ["3:ollama/llama3:8b"]
    say(desk, 3, "Eleven?")
    say(desk, 4, "I would rather not give a number.")
    assert out(desk) == ["5:groq/llama-3.3-70b-versatile"]
    say(desk, 5, "Twelve.", usage=Usage(input_tokens=100, output_tokens=100))
    end_of, told = result_of(desk), cascade_of(desk)
    assert (end_of.provider, told.rung, told.sufficient, told.confidence) == ("groq", 3, True, None)
    assert end_of.cost_nanodollars == 138_000
    assert told.saved_nanodollars == 0
    assert trail(desk).count("escalated") == 2


def test_each_command_goes_out_once_and_the_state_survives_the_journal() -> None:
    desk = begun()
    seen: list[str] = []
    for number, text in ((1, "Ten?"), (2, UNSURE), (3, "Eleven."), (4, SURE)):
        seen += [command.event_id for command in desk.decisions[-1].commands]
        for command in desk.decisions[-1].commands:
            published(desk, command)
        say(desk, number, text)
    seen += [command.event_id for command in desk.decisions[-1].commands]
    assert len(set(seen)) == len(seen)
    assert sum(one.endswith("/completed") for one in seen) == 1


SCHEMA = Options(
    response_format=ResponseFormat(kind=ResponseFormatKind.JSON_SCHEMA, schema=plain(json.dumps({"type": "object"})))
)
HALF = AnswerChoice(logprobs=plain(json.dumps([{"token": "a", "logprob": -0.6931471805599453}])))


@pytest.mark.parametrize(
    ("tests", "options", "answer", "asked_next"),
    [
        ("fits_schema: true", SCHEMA, {"fits_schema": True}, None),
        ("fits_schema: true", SCHEMA, {"fits_schema": False}, "llama3:8b"),
        # Nobody has looked.
        ("fits_schema: true", SCHEMA, {}, "llama3:8b"),
        # Without a schema there is no test, and what was not tested is not good enough.
        ("fits_schema: true", None, {}, "llama3:8b"),
        ("logprob: 0.5", None, {"choices": (HALF,)}, None),
        ("logprob: 0.51", None, {"choices": (HALF,)}, "llama3:8b"),
        # None given: that test cannot be made, and there is no other.
        ("logprob: 0.5", None, {}, "llama3:8b"),
        ("logprob: 0.5", None, {"choices": (AnswerChoice(logprobs=plain("[{}]")),)}, "llama3:8b"),
        ("logprob: 0.5\n      self_rating: 0.7", None, {}, "gemma2:2b"),
        ("logprob: 0.51\n      self_rating: 0.7", None, {"choices": (HALF,)}, "llama3:8b"),
        # One that was cut off is no whole answer.
        ("self_rating: 0.7", None, {"finish_reason": "length"}, "llama3:8b"),
        ("self_rating: 0.7", None, {}, "gemma2:2b"),
        ("validator: {models: [ollama/phi3:3.8b]}", None, {}, "phi3:3.8b"),
    ],
)
def test_tests_of_confidence(
    tests: str, options: Options | None, answer: dict[str, Any], asked_next: str | None
) -> None:
    desk = Desk(policy=policy_with(tests=tests))
    desk.submit(options=options, **PUBLIC)
    say(desk, 1, "{}", **answer)
    if asked_next is None:
        assert cascade_of(desk).sufficient
    else:
        assert out(desk) == [f"2:ollama/{asked_next}"]


@pytest.mark.parametrize(
    ("reply", "sufficient"),
    [
        (SURE, True), ('```json\n{"confidence": 1}\n```', True), ('{"confidence": 0.7}', True),
        ('{"confidence": 0.69}', False), ('{"confidence": "0.9"}', False), ('{"confidence": true}', False),
        ('{"confidence": 9}', False), ('{"confidence": -1}', False), ('{"confidence": NaN}', False),
        ('{"confidence": 1e999}', False), (f'{{"confidence": 1{"0" * 400}}}', False), ("0.9", False), ("{", False),
        ("[" * 3_000, False), ('{"sure": 0.9}', False), ("yes", False),
    ],
)  # fmt: skip
def test_what_a_rating_says(reply: str, sufficient: bool) -> None:
    desk = begun()
    say(desk, 1, "Ten.")
    say(desk, 2, reply)
    assert (state_of(desk).phase is TaskPhase.FINISHED) is sufficient


def test_a_self_rating_and_a_validator_must_both_be_passed() -> None:
    desk = begun(tests="self_rating: 0.7\n      validator: {models: [ollama/phi3:3.8b], at_least: 0.5}")
    say(desk, 1, "Ten.")
    say(desk, 2, SURE)
    assert out(desk) == ["3:ollama/phi3:3.8b"]
    say(desk, 3, '{"confidence": 0.4}')
    assert out(desk) == ["4:ollama/llama3:8b"]


def test_probabilities_are_asked_for_only_where_the_model_is_known_to_give_them_and_are_not_shown() -> None:
    able = replace(LOCAL, models=tuple(ModelStatus(name=one.name, capabilities=("logprobs",)) for one in LOCAL.models))
    for node, wanted in ((LOCAL, None), (able, 0)):
        desk = Desk(fleet=(node, GROQ_NODE), policy=policy_with(tests="logprob: 0.4"))
        desk.submit(**PUBLIC)
        (request,) = requests(desk)
        assert (None if request.options is None else request.options.top_logprobs) == wanted
    say(desk, 1, "Ten.", choices=(HALF,))
    assert [choice.logprobs for choice in result_of(desk).choices] == [None]
    assert cascade_of(desk).confidence == pytest.approx(0.5)


def test_a_refusal_is_the_answer_whoever_refuses() -> None:
    for refused in (1, 2):
        desk = begun()
        if refused == 2:
            say(desk, 1, "Ten.")
        end(desk, refused, Outcome.REFUSED)
        assert result_of(desk).status is TaskStatus.REFUSED
        assert not requests(desk)


def test_a_refusal_that_comes_late_still_counts() -> None:
    desk = begun(tests="self_rating: 0.7")
    desk.wake()
    assert out(desk) == ["2:ollama/llama3:8b"]
    decision = end(desk, 1, Outcome.REFUSED)
    assert result_of(desk).status is TaskStatus.REFUSED
    stopped = [one for one in decision.commands if one.kind is CommandKind.CANCEL]
    assert [published(desk, one).event.number for one in stopped] == [2]


def test_a_rung_that_fails_is_tried_again_and_then_passed_over() -> None:
    desk = begun()
    end(desk, 1, Outcome.FAILED_RETRYABLE)
    assert out(desk) == []
    desk.wake()
    assert out(desk) == ["2:ollama/gemma2:2b"]
    end(desk, 2, Outcome.FAILED_RETRYABLE)
    assert out(desk) == ["3:ollama/llama3:8b"]
    end(desk, 3, Outcome.FAILED_PERMANENT)
    assert out(desk) == ["4:groq/llama-3.3-70b-versatile"]


def test_when_the_larger_ones_fail_the_small_answer_is_given_and_said_to_be_unsure() -> None:
    desk = begun()
    say(desk, 1, "Ten?")
    say(desk, 2, UNSURE)
    end(desk, 3, Outcome.FAILED_PERMANENT)
    end(desk, 4, Outcome.FAILED_PERMANENT)
    end_of, told = result_of(desk), cascade_of(desk)
    assert end_of.answer is not None
    assert (end_of.status, text_of(end_of.answer)) == (TaskStatus.SUCCEEDED, "Ten?")
    assert (told.rung, told.sufficient) == (1, False)


def test_a_task_whose_rungs_all_fail_fails_with_the_last_reason() -> None:
    desk = begun()
    for number in (1, 2, 3):
        end(desk, number, Outcome.FAILED_PERMANENT, failure=Failure(code=f"code{number}"))
    failure = result_of(desk).failure
    assert failure is not None
    assert failure.code == "code3"
    assert cascade_of(desk).rung == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        # The last rung may cost more than there is.
        ({"budget_nanodollars": 100}, "over_budget"),
        ({"privacy": Privacy.SENSITIVE}, "privacy"),
        ({"privacy": Privacy.INTERNAL}, "no_consent"),
        ({"mode": Mode.LOCAL}, "mode"),
        ({"routing": Routing(ignore=("groq",))}, "ignored"),
    ],
)
def test_escalation_stays_within_the_rules_and_the_budget(fields: dict[str, Any], reason: str) -> None:
    desk = Desk(policy=policy_with())
    desk.submit(**{**PUBLIC, **fields})
    say(desk, 1, "Ten?")
    say(desk, 2, UNSURE)
    say(desk, 3, "Eleven?")
    say(desk, 4, UNSURE)
    told = cascade_of(desk)
    assert (told.rung, told.sufficient) == (2, False)
    assert reason in told.reason
    assert not any(one.provider == "groq" for one in told.members)


def test_with_too_little_time_the_answer_that_there_is_is_given() -> None:
    desk = Desk(policy=policy_with())
    desk.submit(deadline_at=desk.now + 10_000, **PUBLIC)
    desk.now += 8_500
    say(desk, 1, "Ten?")
    say(desk, 2, UNSURE)
    assert "too little time" in cascade_of(desk).reason


def test_a_task_that_has_an_answer_ends_before_its_deadline_whatever_hangs() -> None:
    for before in range(3):
        desk = Desk(policy=policy_with())
        deadline = desk.now + 30_000
        desk.submit(deadline_at=deadline, **PUBLIC)
        say(desk, 1, "Ten?")
        if before:
            say(desk, 2, UNSURE)
        if before == 2:
            desk.wake()
        while state_of(desk).phase is not TaskPhase.FINISHED:
            desk.wake()
        assert desk.now < deadline
        assert result_of(desk).status is TaskStatus.SUCCEEDED


def test_without_an_answer_it_expires() -> None:
    desk = Desk(fleet=(LOCAL,), policy=policy_with())
    desk.submit(deadline_at=desk.now + 30_000, **PUBLIC)
    while state_of(desk).phase is not TaskPhase.FINISHED:
        desk.wake()
    assert result_of(desk).status is TaskStatus.EXPIRED


def test_a_rung_that_nobody_offers_is_passed_over_and_with_none_the_task_waits() -> None:
    desk = Desk(fleet=without(EVERYWHERE, "ollama"), policy=policy_with())
    desk.submit(**PUBLIC)
    assert out(desk) == ["1:groq/llama-3.3-70b-versatile"]
    say(desk, 1, "Twelve.")
    assert cascade_of(desk).sufficient
    desk = Desk(fleet=(), policy=policy_with())
    desk.submit(**PUBLIC)
    assert state_of(desk).phase is TaskPhase.WAITING
    desk.fleet = EVERYWHERE
    desk.decide(WakeUp())
    assert out(desk) == ["1:ollama/gemma2:2b"]
    assert len(state_of(desk).panel.members) == 1  # type: ignore[union-attr]


def test_a_task_that_waits_for_its_turn_begins_at_the_first_rung() -> None:
    peers = NoPeers(outside=OutNow(attempts=10**6, bytes=10**12))
    desk = Desk(policy=policy_with(), peers=peers)
    desk.submit(**PUBLIC)
    assert (state_of(desk).phase, attempts(desk)) == (TaskPhase.WAITING, [])
    assert ignored(desk, WakeUp()) == "behind_others"  # type: ignore[arg-type]
    peers.outside = OutNow()
    desk.decide(WakeUp())
    assert out(desk) == ["1:ollama/gemma2:2b"]


def test_attempts_that_asked_nobody_are_no_tries_and_leave_little_in_the_state() -> None:
    desk = begun()
    for number in range(1, 40):
        unasked = {"usage": Usage(), "failure": Failure(code="no_capacity")}
        end(desk, number, Outcome.FAILED_RETRYABLE, **unasked)
        assert len(attempts(desk)) <= 3
        desk.wake()
        if out(desk) != [f"{number + 1}:ollama/gemma2:2b"]:
            pytest.fail(f"{out(desk)} after {number} that asked nobody")
    say(desk, 40, "Ten.")
    assert len(state_of(desk).trail) < 10


def test_late_and_foreign_reports_change_nothing_and_breaches_are_audited() -> None:
    desk = begun()
    assert ignored(desk, report(desk, 1, tenant="mallory")) == "late_result"
    assert ignored(desk, report(desk, 9)) == "late_result"
    desk.wake()
    assert ignored(desk, report(desk, 1, Outcome.FAILED_RETRYABLE)) == "late_result"
    left = Failure(code="answered_remotely", message="to elsewhere")
    decision = end(desk, 1, Outcome.FAILED_PERMANENT, failure=left)
    (audit,) = [published(desk, one).event for one in decision.commands]
    assert (audit.action, audit.allowed) == ("breach", False)
    assert ignored(desk, report(desk, 1, Outcome.FAILED_PERMANENT, failure=left)) == "late_result"
    assert out(desk) == ["2:ollama/llama3:8b"]


def test_cancelling_stops_all_kinds_of_workers() -> None:
    desk = begun()
    say(desk, 1, "Ten?")
    decision = desk.decide(Cancelled(cancelled()))
    assert [one.kind for one in decision.commands] == [CommandKind.CANCEL, CommandKind.COMPLETE]
    assert result_of(desk).status is TaskStatus.CANCELLED


def test_a_record_that_is_too_large_is_passed_over() -> None:
    desk = begun()
    desk.decide(Undeliverable(1, Failure(code="record_too_large")))
    assert out(desk) == ["2:ollama/llama3:8b"]


@pytest.mark.parametrize(
    ("use", "fields", "expected"),
    [
        ("always", {}, "cascade"),
        ("always", {"routing": Routing(cascade=False)}, "one"),
        ("on_request", {}, "one"),
        ("on_request", {"routing": Routing(cascade=True)}, "cascade"),
        ("on_request", {"routing": Routing(cascade=True, ensemble=True)}, "cascade_and_ensemble"),
        ("on_request", {"role": "testing", "routing": Routing(cascade=True)}, "no_cascade"),
        ("always", {"routing": Routing(ensemble=True)}, "no_ensemble"),
        ("always", {"options": Options(choices=2)}, "one"),
        ("always", {"options": Options(tools=(Tool(name="t"),))}, "one"),
        ("always", {"options": Options(choices=2), "routing": Routing(cascade=True)}, "not_for_several_models"),
        ("always", {"model": "gemma2:2b", "role": None}, "one"),
        ("always", {"model": "gemma2:2b", "role": None, "routing": Routing(cascade=True)}, "no_cascade"),
        (
            "always",
            {"operation": ModelOperation.EMBED, "options": Options(inputs=(plain("x"),)), "messages": ()},
            "one",
        ),
    ],
)
def test_who_has_a_cascade(use: str, fields: dict[str, Any], expected: str) -> None:
    desk = Desk(policy=policy_with(use=use))
    desk.submit(**{**PUBLIC, **fields})
    state = state_of(desk)
    if expected == "cascade":
        assert state.panel is not None
    elif expected == "one":
        assert (state.phase, state.panel) == (TaskPhase.RUNNING, None)
    else:
        assert state.result is not None
        assert state.result.failure is not None
        assert state.result.failure.code == expected


def test_a_policy_that_has_no_cascade_any_more_is_followed_at_once() -> None:
    desk = begun()
    say(desk, 1, "Ten.")
    desk.policy = policy_with(roles="")
    role = desk.policy.roles["stepwise"]
    desk.policy = desk.policy.model_copy(
        update={"roles": {**desk.policy.roles, "stepwise": role.model_copy(update={"cascade": None})}}
    )
    say(desk, 2, UNSURE)
    assert result_of(desk).status is TaskStatus.SUCCEEDED
    assert not cascade_of(desk).sufficient
    before = begun()
    before.policy = desk.policy
    end(before, 1, Outcome.FAILED_RETRYABLE)
    state = state_of(before)
    assert (state.panel, state.phase, [one.number for one in state.attempts]) == (None, TaskPhase.RUNNING, [1, 2])


def test_what_a_tenant_leaves_out_is_not_asked_for_by_a_cascade_either() -> None:
    policy = policy_with()
    for said, rungs in (
        ({"ladder": []}, ["gemma2:2b", "llama3:8b"]),
        ({"roles": {"stepwise": {"ladder": []}}}, ["gemma2:2b", "llama3:8b"]),
        ({"roles": {"stepwise": {"privacy": "internal"}}}, ["gemma2:2b", "llama3:8b", "llama-3.3-70b-versatile"]),
    ):
        made, problems = narrowed(policy, TenantPolicy.model_validate(said))
        cascade = made.roles["stepwise"].cascade
        assert not problems
        assert cascade is not None
        assert [ref.model for ref in cascade.rungs] == rungs


def test_answers_are_shared_as_any_other() -> None:
    desk = begun()
    say(desk, 1, "Ten.")
    say(desk, 2, SURE)
    again = Desk(policy=policy_with(), peers=NoPeers(Equal(answer=result_of(desk))))
    again.submit(**PUBLIC)
    assert result_of(again).served_from is ServedFrom.CACHE
    assert cascade_of(again).rung == 1
