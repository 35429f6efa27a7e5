"""`/v1/completions` and `/v1/moderations` through the unmodified `openai` package."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import AnswerChoice, Failure, MessagePart, PartKind, TaskStatus
from headrace_intake.decide.moderations import CATEGORIES
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        yield running


def client(intake: Running, *, strict: bool) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{intake.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0, timeout=10,
        _strict_response_validation=strict,
    )  # fmt: skip


@pytest.fixture
async def ai(intake: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client(intake, strict=True) as made:
        yield made


@pytest.fixture
async def lenient(intake: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    """For streams: the package's type for their chunks has no null for a finish reason, which OpenAI sends in all but
    the last."""
    async with client(intake, strict=False) as made:
        yield made


async def twice(router: StandIn, seen: Seen) -> None:
    """Two answers to every prompt."""
    said = [plain("one"), plain("two")]
    choices = tuple(
        AnswerChoice(index=n, parts=(MessagePart(kind=PartKind.TEXT, content=text),), finish_reason=reason)
        for n, (text, reason) in enumerate(zip(said, ("stop", "length"), strict=True))
    )
    await router.finish(seen, answer=said[0], choices=choices)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("Hello", ["Echo: Hello"]), (["a", "b", "c"], ["Echo: a", "Echo: b", "Echo: c"]), (["solo"], ["Echo: solo"])],
)
@pytest.mark.parametrize("echo", [False, True])
async def test_each_prompt_is_continued(
    bed: Bed, ai: openai.AsyncOpenAI, lenient: openai.AsyncOpenAI, prompt: Any, texts: list[str], echo: bool
) -> None:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    wanted = [(given if echo else "") + text for given, text in zip(prompts, texts, strict=True)]
    answer = await ai.completions.create(model="auto", prompt=prompt, max_tokens=9, stop=["\n"], echo=echo)
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (place, text, "stop") for place, text in enumerate(wanted)
    ]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16 * len(texts)
    assert bed.router.tasks[0].task.sampling.max_output_tokens == 9
    heard = [""] * len(texts)
    async for chunk in await lenient.completions.create(
        model="auto", prompt=prompt, stream=True, echo=echo, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            heard[choice.index] += choice.text
        usage = chunk.usage
    assert heard == wanted
    assert usage is not None
    assert usage.total_tokens == 16 * len(texts)


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_to_several_prompts_are_numbered(
    bed: Bed, ai: openai.AsyncOpenAI, lenient: openai.AsyncOpenAI, stream: bool
) -> None:
    bed.router.answer = twice
    answer: Any = await (lenient if stream else ai).completions.create(
        model="auto", prompt=["a", "b"], n=2, best_of=2, stream=stream
    )
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for part in [chunk async for chunk in answer] if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index, "")
    assert texts == {0: "one", 1: "two", 2: "one", 3: "two"}
    assert reasons == {0: "stop", 1: "length", 2: "stop", 3: "length"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"suffix": "the end"}, "suffix"), ({"best_of": 3}, "best_of"), ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": ["x"] * 33}, "prompt"),
        ({"echo": True, "logprobs": 2}, "logprobs"), ({"logprobs": 9}, "logprobs"), ({"n": 0}, "n"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused(ai: openai.AsyncOpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await ai.completions.create(**{"model": "auto", "prompt": "Hello", **changes})
    assert error.value.param == param


def judging(**scores: float) -> Any:
    async def judge(router: StandIn, seen: Seen) -> None:
        found = dict.fromkeys(CATEGORIES, 0.01) | {name.replace("_", "/"): score for name, score in scores.items()}
        await router.finish(seen, answer=plain(json.dumps(found)))

    return judge


@pytest.mark.parametrize(
    ("given", "results"),
    [
        ("I will hurt you", 1),
        (["one", "two", "three"], 3),
        ([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}], 1),
    ],
)
async def test_content_is_moderated_by_the_role(bed: Bed, ai: openai.AsyncOpenAI, given: Any, results: int) -> None:
    bed.router.answer = judging(violence=0.9, hate_threatening=0.7)
    answer = await ai.moderations.create(model="omni-moderation-latest", input=given)
    assert len(answer.results) == results
    for result in answer.results:
        assert (result.flagged, result.categories.violence, result.categories.sexual) == (True, True, False)
        assert (result.categories.hate_threatening, result.category_scores.violence) == (True, 0.9)
    task = bed.router.tasks[0].task
    assert (task.role, task.options is not None and task.options.response_format is not None) == ("moderation", True)


async def test_a_policy_without_the_role_is_told_how_to_get_one(bed: Bed, ai: openai.AsyncOpenAI) -> None:
    async def unknown(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code="unknown_role"))

    bed.router.answer = unknown
    with pytest.raises(openai.NotFoundError, match="no role `moderation`"):
        await ai.moderations.create(input="Hello")


@pytest.mark.parametrize("said", ["I think it is fine.", "{}", '{"hate": "yes"}', "[1]"])
async def test_an_answer_without_scores_is_no_verdict(bed: Bed, ai: openai.AsyncOpenAI, said: str) -> None:
    async def ramble(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, answer=plain(said))

    bed.router.answer = ramble
    with pytest.raises(openai.InternalServerError, match="no scores"):
        await ai.moderations.create(input="Hello")
