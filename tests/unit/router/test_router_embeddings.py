"""Tasks that ask for vectors of texts: whom they may go to, what they may cost, and which answers are one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.cargo import MOST_VECTOR_BYTES, keyed_content
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    ModelOperation,
    ModelStatus,
    NodeStatus,
    Options,
    Outcome,
    Privacy,
    ServedFrom,
    TaskPhase,
    TaskStatus,
    TaskSubmitted,
)
from headrace_router.decide.admission import admitted_task, key_of
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.rules import TaskRules
from headrace_router.decide.sharing import may_be_kept, may_serve_followers
from headrace_testing.routing import NOW, Desk, node, task

VECTOR = Content(data=b"\0\0\x80?" * 3)
EMBEDDER = replace(
    node("embedders"),
    models=(ModelStatus(name="nomic-embed-text:v1.5", capabilities=("embeddings",), context_tokens=2_048),),
)


def embed(*texts: str, **fields: Any) -> TaskSubmitted:
    options = Options(inputs=tuple(map(plain, texts)), dimensions=fields.pop("dimensions", None))
    return task(**{"messages": (), "operation": ModelOperation.EMBED, "options": options, "role": "embed", **fields})


def submitted(asked: TaskSubmitted, *nodes: NodeStatus) -> Desk:
    desk = Desk(fleet=nodes or (EMBEDDER,))
    desk.submit(asked)
    return desk


@pytest.mark.parametrize("texts", [("one",), ("one", "two"), ("one",) * 2_048])
def test_vectors_end_a_task_and_may_be_shared(texts: tuple[str, ...]) -> None:
    desk = submitted(embed(*texts))
    assert desk.state is not None
    assert desk.state.phase is TaskPhase.RUNNING
    assert desk.state.attempts[0].max_output_tokens is None
    desk.end(Outcome.ANSWERED, content=None, embeddings=(VECTOR,) * len(texts))
    result = desk.state.result
    assert result is not None
    assert (result.status, result.embeddings, result.answer) == (TaskStatus.SUCCEEDED, (VECTOR,) * len(texts), None)
    assert may_be_kept(result)
    assert may_serve_followers(result)
    assert result.served_from is ServedFrom.ATTEMPT


@pytest.mark.parametrize(
    "vectors",
    [(), (VECTOR,), (VECTOR,) * 3, (VECTOR, Content(data=VECTOR.data[4:])), (Content(data=b""),) * 2,
     (Content(data=b"12345"),) * 2],
)  # fmt: skip
def test_other_vectors_than_were_asked_for_are_no_answer(vectors: tuple[Content, ...]) -> None:
    desk = submitted(embed("one", "two"))
    desk.end(Outcome.ANSWERED, content=plain("a text instead"), embeddings=vectors)
    assert desk.state is not None
    assert desk.state.phase is not TaskPhase.FINISHED
    failure = desk.state.attempts[0].failure
    assert failure is not None
    assert failure.code == "invalid_vectors"


def test_a_chat_gets_no_vectors() -> None:
    desk = Desk()
    desk.submit()
    desk.end(Outcome.ANSWERED, embeddings=(VECTOR,))
    assert desk.state is not None
    assert desk.state.result is not None
    assert desk.state.result.embeddings == ()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (embed(), "options.inputs"),
        (embed("one", ""), "options.inputs"),
        (embed(*["x"] * 2_049), "options.inputs"),
        (embed("x", dimensions=0), "options.dimensions"),
        (embed("x", messages=task().messages), "messages"),
        (embed(*["x"] * (MOST_VECTOR_BYTES // 4 // 3_072 + 1), dimensions=3_072), "options.inputs"),
        (task(messages=(), operation=ModelOperation.EMBED), "options.inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: TaskSubmitted, field: str) -> None:
    event = admitted_task(asked, b"k", 0, None, NOW)
    assert event.refused is not None
    assert event.refused.code == "invalid_request"
    assert event.refused.message.startswith(field)
    assert admitted_task(embed("x", dimensions=3_072), b"k", 0, None, NOW).refused is None


def test_too_many_vectors_say_how_many_fit() -> None:
    asked = embed(*["x"] * 1_000, dimensions=1_536)
    event = admitted_task(asked, b"k", 0, None, NOW)
    assert event.refused is not None
    assert "at most 512" in event.refused.message


@pytest.mark.parametrize(
    ("capabilities", "able"),
    [(None, True), (("embeddings",), True), (("tools", "embeddings"), True), (("tools",), False), ((), False)],
)
def test_only_models_that_make_vectors_are_asked(capabilities: tuple[str, ...] | None, able: bool) -> None:
    model = ModelStatus(name="nomic-embed-text:v1.5", capabilities=capabilities)
    desk = submitted(embed("one"), replace(EMBEDDER, models=(model,)))
    assert desk.state is not None
    assert (desk.state.phase is TaskPhase.RUNNING) is able
    if not able:
        assert desk.state.result is not None
        assert desk.state.result.failure is not None
        assert desk.state.result.failure.code == "incapable"


@pytest.mark.parametrize(("texts", "fits"), [(("x" * 8_000,) * 9, True), (("x", "x" * 9_000), False)])
def test_each_text_must_fit_into_the_context(texts: tuple[str, ...], fits: bool) -> None:
    desk = submitted(embed(*texts))
    assert desk.state is not None
    assert (desk.state.phase is TaskPhase.RUNNING) is fits


@pytest.mark.parametrize("budget", [0, 10**6])
def test_a_budget_counts_what_is_read_and_nothing_that_is_written(budget: int) -> None:
    model = ModelStatus(name="llama-3.1-8b-instant", capabilities=("embeddings",))
    cloud = replace(node("groq", "groq"), models=(model,))
    asked = embed(
        "x" * 1_000, role=None, model="groq/llama-3.1-8b-instant", privacy=Privacy.PUBLIC, budget_nanodollars=budget
    )
    desk = submitted(asked, cloud)
    assert desk.state is not None
    if not budget:
        assert desk.state.result is not None
        assert desk.state.result.failure is not None
        assert desk.state.result.failure.code == "over_budget"
        return
    assert desk.state.phase is TaskPhase.RUNNING
    assert (
        desk.state.attempts[0].worst_case_nanodollars == 50 * 1_016 or desk.state.attempts[0].worst_case_nanodollars > 0
    )
    assert desk.state.attempts[0].worst_case_nanodollars < 10**6


def test_equal_texts_share_a_key_and_an_answer_and_others_do_not() -> None:
    rules = TaskRules(Privacy.INTERNAL, task().mode or "hybrid", frozenset(), None)  # type: ignore[arg-type]
    variants = [
        embed("a"),
        embed("b"),
        embed("a", "b"),
        embed("ab"),
        embed("a", dimensions=8),
        embed("a", role="other"),
    ]
    assert len({equality_digest(one, rules, "v") for one in variants}) == len(variants)
    assert equality_digest(embed("a"), rules, "v") == equality_digest(embed("a"), rules, "v")
    assert key_of(embed("a")) == key_of(embed("a"))
    assert len({key_of(one) for one in variants}) == len(variants) - 1, "the length is no part of the key"
    assert keyed_content((), embed("a").options) == [("input", b"a")]
