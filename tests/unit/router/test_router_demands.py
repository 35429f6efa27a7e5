"""What a task demands of a model beyond text, and who is not asked because of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Message,
    MessagePart,
    Mode,
    ModelOperation,
    ModelStatus,
    Options,
    PartKind,
    Place,
    Privacy,
    TaskStatus,
    TaskSubmitted,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.demands import capable, demands
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.policy import Policy
from headrace_router.decide.publications import _options_for
from headrace_router.decide.rules import TaskRules
from headrace_testing.routing import NOW, Desk, node, task

TOOL = Tool(name="f")
IMAGE = MessagePart(kind=PartKind.IMAGE, content=Content(data=b"x"), media_type="image/png")


def saying(*parts: MessagePart, **fields: Any) -> TaskSubmitted:
    return replace(task(), messages=(Message(role="user", content=plain(""), parts=parts),), **fields)


@pytest.mark.parametrize(
    ("asked", "demanded"),
    [
        (task(), set()),
        (task(options=Options(reasoning_effort="high", top_k=3)), set()),
        (task(options=Options(tools=(TOOL,))), {"tools"}),
        (task(options=Options(top_logprobs=0)), {"logprobs"}),
        (task(options=Options(choices=2)), {"choices"}),
        (task(operation=ModelOperation.EMBED), {"embeddings"}),
        (saying(MessagePart(kind=PartKind.TEXT, content=plain("a")), IMAGE), {"vision"}),
        (saying(replace(IMAGE, content=None, url=plain("https://a.example/x.png"))), {"vision", "urls"}),
        (saying(replace(IMAGE, kind=PartKind.AUDIO, media_type="audio/wav")), {"audio"}),
        (saying(replace(IMAGE, kind=PartKind.FILE, media_type="application/pdf")), {"files"}),
        (saying(MessagePart(kind=PartKind.TOOL_RESULT, call_id="c", content=plain("r"))), {"tools"}),
    ],
)
def test_what_is_demanded(asked: TaskSubmitted, demanded: set[str]) -> None:
    assert demands(asked) == demanded


@pytest.mark.parametrize(
    ("told", "able"),
    [(None, True), (("tools", "vision"), True), (("tools",), True), (("vision",), False), ((), False)],
)
def test_only_nodes_whose_model_can_are_asked(told: tuple[str, ...] | None, able: bool) -> None:
    status = replace(node("a"), models=(ModelStatus(name="m:latest", capabilities=told),))
    offer = Fleet([status]).offer("ollama", "m", Place.LOCAL)
    nodes, lacking = capable(offer, offer.usable(NOW), frozenset({"tools"}))
    assert bool(nodes) is able
    assert lacking == (frozenset() if able else {"tools"})


@pytest.mark.parametrize("privacy", [Privacy.SENSITIVE, Privacy.INTERNAL, Privacy.PUBLIC])
def test_an_address_is_for_public_tasks(privacy: Privacy) -> None:
    desk = Desk()
    desk.submit(
        messages=(Message(role="user", content=plain(""), parts=(replace(IMAGE, content=None, url=plain("https://a.example/")),)),),
        privacy=privacy,
    )  # fmt: skip
    assert desk.state is not None
    result = desk.state.result
    refused = result is not None and result.failure is not None and result.failure.code == "url_not_public"
    assert refused is (privacy is not Privacy.PUBLIC)
    if refused:
        assert result is not None
        assert result.status is TaskStatus.FAILED


CHANGES: list[dict[str, Any]] = [
    {"options": Options(tools=(TOOL,))},
    {"options": Options(tools=(replace(TOOL, strict=True),))},
    {"options": Options(tools=(replace(TOOL, description=plain("d")),))},
    {"options": Options(tools=(TOOL,), tool_choice=ToolChoice(mode=ToolChoiceMode.NONE))},
    {"options": Options(choices=2)},
    {"options": Options(reasoning_effort="low")},
    {"options": Options(extra={"a": plain("1")})},
    {"options": Options(extra={"a": plain("2")})},
    {"messages": (Message(role="user", content=plain("Hello"), name=plain("ann")),)},
    {"messages": (Message(role="user", content=plain(""), parts=(IMAGE,)),)},
    {"messages": (Message(role="user", content=plain(""), parts=(replace(IMAGE, content=Content(data=b"y")),)),)},
    {"messages": (Message(role="user", content=plain(""), parts=(replace(IMAGE, detail="low"),)),)},
    {"messages": (Message(role="user", content=plain(""), parts=(IMAGE, IMAGE)),)},
]


def test_tasks_that_differ_in_anything_share_no_answer() -> None:
    rules = TaskRules(Privacy.PUBLIC, Mode.HYBRID, frozenset(), None)
    digests = {equality_digest(replace(task(), **change), rules, "v") for change in ({}, *CHANGES)}
    assert len(digests) == len(CHANGES) + 1
    assert equality_digest(replace(task(), **CHANGES[1]), rules, "v") in digests


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"model": "groq/llama"}, True),
        ({"model": "anthropic/claude"}, False),
        ({"preferred_provider": "groq"}, True),
        ({"preferred_provider": "anthropic"}, False),
        ({"model": "llama"}, False),
        ({}, False),
    ],
)
def test_parameters_of_one_provider_go_to_no_other(fields: dict[str, Any], kept: bool) -> None:
    options = Options(top_k=3, extra={"documents": plain("[]")})
    told = _options_for(task(options=options, **fields), "groq")
    assert told is not None
    assert told.top_k == 3
    assert bool(told.extra) is kept


def policy_with(stated: dict[str, list[str]]) -> Policy:
    shipped = load_policy(None).model_dump()
    shipped["providers"]["groq"]["models"] = {model: {"capabilities": able} for model, able in stated.items()}
    return Policy.model_validate(shipped)


@pytest.mark.parametrize(
    ("stated", "options", "groq"),
    [
        ({}, Options(tools=(TOOL,)), True),
        ({"llama-3.3-70b-versatile": ["tools"]}, Options(tools=(TOOL,)), True),
        ({"llama-3.3-70b-versatile": []}, Options(tools=(TOOL,)), False),
        ({"llama-3.3-70b-versatile": ["tools"]}, Options(tools=(TOOL,), choices=2), False),
        ({"llama-3.3-70b-versatile": []}, None, True),
        ({"llama-3.1-8b-instant": []}, Options(tools=(TOOL,)), True),
    ],
)
def test_what_the_policy_says_of_a_model_is_believed(
    stated: dict[str, list[str]], options: Options | None, groq: bool
) -> None:
    """Whatever its provider's API has a place for: the next candidate is asked instead."""
    desk = Desk(policy=policy_with(stated))
    desk.submit(options=options, mode=Mode.CLOUD, privacy=Privacy.PUBLIC)
    assert desk.state is not None
    assert desk.state.attempts[-1].provider == ("groq" if groq else "anthropic")
    refused = [step.model for step in desk.state.trail if "cannot do what the task demands" in step.reason]
    assert refused == ([] if groq else ["llama-3.3-70b-versatile"])


def test_the_shipped_policy_sends_no_image_to_a_model_that_sees_none() -> None:
    desk = Desk()
    desk.submit(saying(IMAGE, mode=Mode.CLOUD, privacy=Privacy.PUBLIC))
    assert desk.state is not None
    assert desk.state.attempts[-1].provider == "anthropic"


def test_a_capability_that_there_is_not_is_refused_with_the_policy() -> None:
    with pytest.raises(ValueError, match=r"providers\.groq\.models\.m\.capabilities"):
        policy_with({"m": ["sight"]})
