"""What the waiting tasks are in work, and for whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Lane,
    ModelOperation,
    NodeStatus,
    Options,
    Outcome,
    Place,
    Privacy,
    TaskPhase,
    Usage,
)
from headrace_contracts.topics import work_topic
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.attempt_windows import OutNow
from headrace_router.decide.waiting_work import (
    MOST_MODELS,
    OTHER_MODELS,
    AnswerLengths,
    KnownOffers,
    WaitingLoad,
    WaitingNeed,
    Wanted,
    WorkTarget,
    need_of,
    waiting_loads,
)
from headrace_testing.routing import NOW, Desk, NoPeers, node

POLICY = load_policy(None)
GEMMA, PHI = "gemma2:2b", "phi3:3.8b"
LOCAL_GEMMA = Wanted(Place.LOCAL, "ollama", GEMMA)


def gone(site: str, *models: str, **fields: Any) -> NodeStatus:
    """The last report of a node whose worker left an hour ago."""
    report = node(f"node-{site}", models=models or (GEMMA,), site=site, healthy=False, reason="its worker is leaving")
    return replace(report, reported_at=NOW - 3_600_000, valid_for_ms=15_000, **fields)


def need(*reports: NodeStatus, **fields: Any) -> WaitingNeed:
    desk = Desk(fleet=reports, policy=POLICY)
    state = desk.submit(**fields).state
    assert state.phase is TaskPhase.WAITING, state.result
    return need_of(state, desk.context)


def loads(
    *needs: WaitingNeed, reports: Collection[NodeStatus] = (), sites: Collection[str] = ("",),
    heard: Collection[str] = (), lengths: AnswerLengths | None = None, times: float = 1.0,
) -> dict[WorkTarget, WaitingLoad]:  # fmt: skip
    offers = KnownOffers(reports, POLICY, sites, heard)
    return dict(waiting_loads(needs, offers, lengths or AnswerLengths(), times))


def places(found: dict[WorkTarget, WaitingLoad]) -> set[tuple[str, str, str]]:
    return {(target.place.value, target.site, target.model) for target in found}


def test_a_sensitive_task_counts_for_local_workers_only_and_a_public_one_for_the_cloud_too() -> None:
    sensitive = loads(need(role="general", privacy=Privacy.SENSITIVE))
    assert places(sensitive) == {("local", "", GEMMA)}
    public = loads(need(role="general", privacy=Privacy.PUBLIC))
    assert places(public) == {("local", "", GEMMA), ("cloud", "", "llama-3.3-70b-versatile")}
    assert sum(load.tasks for target, load in public.items() if target.place is Place.CLOUD) == 1, "not each provider"


def test_a_task_counts_for_the_sites_that_have_had_its_model_and_for_no_other() -> None:
    reports = (gone("berlin"), gone("paris", PHI))
    found = loads(
        need(*reports, model=GEMMA, privacy=Privacy.SENSITIVE), reports=reports, sites=("", "berlin", "paris")
    )
    assert places(found) == {("local", "berlin", GEMMA)}


def test_nodes_without_the_labels_that_a_model_needs_do_not_have_it() -> None:
    facts = {**POLICY.models, GEMMA: POLICY.models[GEMMA].model_copy(update={"hardware": {"gpu": "a100"}})}
    policy = POLICY.model_copy(update={"models": facts})
    able = replace(gone("berlin"), hardware={"gpu": "a100"})
    offers = KnownOffers((able, gone("paris")), policy, ("berlin", "paris"), ())
    assert list(offers.sites_of(LOCAL_GEMMA)) == ["berlin"]


def test_where_nobody_has_had_the_model_it_counts_for_the_sites_of_which_nothing_is_heard() -> None:
    asked = need(model=GEMMA, privacy=Privacy.SENSITIVE)
    reports = (gone("berlin", PHI),)
    found = loads(asked, reports=reports, sites=("", "berlin", "paris"), heard=("berlin",))
    assert places(found) == {("local", "", GEMMA), ("local", "paris", GEMMA)}
    everywhere = loads(asked, reports=reports, sites=("", "berlin"), heard=("", "berlin"))
    assert places(everywhere) == {("local", "", GEMMA), ("local", "berlin", GEMMA)}


def test_a_site_counts_a_task_once_with_the_best_model_that_it_has() -> None:
    asked = need(role="code_reviewer", privacy=Privacy.SENSITIVE)
    assert [one.model for one in asked.candidates] == [PHI, "qwen2.5-coder:1.5b"]
    reports = (gone("berlin", "qwen2.5-coder:1.5b"), gone("paris", PHI, "qwen2.5-coder:1.5b"))
    found = loads(asked, reports=reports, sites=("berlin", "paris"))
    assert places(found) == {("local", "berlin", "qwen2.5-coder:1.5b"), ("local", "paris", PHI)}


def test_a_task_that_waits_for_its_turn_counts_where_it_will_go() -> None:
    topic = work_topic(Place.LOCAL, Lane.BATCH, "berlin").name
    full = NoPeers(outside=OutNow(attempts=10_000, bytes=10**9, next_task="another"))
    desk = Desk(fleet=(node("a", site="berlin"), node("groq", "groq", ["llama-3.3-70b-versatile"])), policy=POLICY)
    desk.peers = full
    state = desk.submit(role="general", privacy=Privacy.PUBLIC).state
    assert (state.phase, state.work_topic) == (TaskPhase.WAITING, topic)
    found = loads(need_of(state, desk.context), reports=tuple(desk.fleet), sites=("", "berlin"), heard=("berlin",))
    assert set(found) == {WorkTarget(Place.LOCAL, "ollama", "berlin", Lane.BATCH, GEMMA)}


def test_its_seconds_are_its_tokens_by_observed_speeds_else_by_the_stated_ones() -> None:
    asked = WaitingNeed(Lane.BATCH, (LOCAL_GEMMA,), prompt_tokens=1_000, max_output_tokens=None)
    (load,) = loads(asked).values()
    assert load.seconds == pytest.approx(1_000 / 500 + 128 / 25)
    reports = (gone("", tokens_per_second=40.0), replace(gone(""), node="b", tokens_per_second=60.0))
    (load,) = loads(asked, reports=reports).values()
    assert load.seconds == pytest.approx(2 + 128 / 50)
    (load,) = loads(replace(asked, max_output_tokens=10), reports=reports).values()
    assert load.seconds == pytest.approx(2 + 10 / 50)
    (load,) = loads(asked, reports=reports, times=4.0).values()
    assert load.tasks == 4
    assert load.seconds == pytest.approx(4 * (2 + 128 / 50))


@pytest.mark.parametrize("speed", [float("nan"), float("inf"), -3.0, 0.0])
def test_a_report_of_an_impossible_speed_counts_as_none(speed: float) -> None:
    asked = WaitingNeed(Lane.BATCH, (LOCAL_GEMMA,), 0, None)
    (load,) = loads(asked, reports=(gone("", tokens_per_second=speed),)).values()
    assert load.seconds == pytest.approx(128 / 25)


def test_the_length_of_answers_is_learned_from_those_that_ended() -> None:
    lengths = AnswerLengths()
    desk = Desk(fleet=(node(),), policy=POLICY)
    desk.submit(role="general")
    end = desk.end(Outcome.ANSWERED, usage=Usage(input_tokens=5, output_tokens=1_000)).state.result
    assert end is not None
    lengths.observe(end)
    asked = WaitingNeed(Lane.BATCH, (LOCAL_GEMMA,), 0, None)
    (load,) = loads(asked, lengths=lengths).values()
    assert load.seconds == pytest.approx(1_000 / 25)
    lengths.observe(replace(end, usage=Usage(output_tokens=-5)))
    assert lengths.usual(LOCAL_GEMMA, None) == pytest.approx(900)
    for number in range(1_000):
        lengths.observe(replace(end, model=f"m{number}"))
    assert lengths.usual(LOCAL_GEMMA, None) == 128, "the models are bounded"


def test_callers_cannot_make_up_any_number_of_labels() -> None:
    named = [need(model=f"made-up-{number}", privacy=Privacy.SENSITIVE) for number in range(5)]
    assert places(loads(*named)) == {("local", "", OTHER_MODELS)}
    many = [gone("", *(f"m{number}:latest" for number in range(2 * MOST_MODELS)))]
    asked = [
        WaitingNeed(Lane.BATCH, (Wanted(Place.LOCAL, "ollama", f"m{number}"),), number, None)
        for number in range(2 * MOST_MODELS)
    ]
    found = loads(*asked, reports=many)
    assert len({target.model for target in found}) == MOST_MODELS + 1
    assert sum(load.tasks for load in found.values()) == 2 * MOST_MODELS
    assert "m99:latest" in {target.model for target in found}, "those with most to do keep their names"


def test_vectors_have_no_answer_to_write() -> None:
    texts = Options(inputs=(plain("x" * 4_000),))
    asked = need(role="embed", privacy=Privacy.SENSITIVE, operation=ModelOperation.EMBED, options=texts, messages=())
    (load,) = loads(asked).values()
    assert load.seconds == pytest.approx(1_000 / 500)
