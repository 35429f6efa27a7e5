"""The unmodified `openai` package against intake: answers, streams, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from headrace_contracts.cargo import content_bytes
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Failure,
    Lane,
    Mode,
    ModelStatus,
    NodeStatus,
    Place,
    Privacy,
    ReplyKind,
    ServedFrom,
    TaskStatus,
    TrailStep,
)
from headrace_contracts.topics import FLEET_STATUS
from headrace_runtime.connections import wall_clock_ms
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, silence
from openai.types.chat import ChatCompletionChunk

HELLO: Any = [{"role": "user", "content": "Hello"}]


def client(intake: Running, key: str = BOOTSTRAP_KEY, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{intake.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 10, **options})


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        yield running


async def chunks_of(openai_client: openai.AsyncOpenAI, **request: Any) -> list[ChatCompletionChunk]:
    stream = await openai_client.chat.completions.create(
        **{"model": "auto", "messages": HELLO, "stream": True, **request}
    )
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_an_answer_says_who_gave_it_and_what_it_cost(intake: Running) -> None:
    async with client(intake) as ai:
        raw = await ai.chat.completions.with_raw_response.create(model="auto", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Echo: Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "ollama/phi3"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 5, 16)
    told: dict[str, Any] = answer.headrace  # type: ignore[attr-defined]
    assert (told["provider"], told["simulated"], told["cost_usd"]) == ("ollama", True, "0.000001500")
    assert raw.headers["X-Headrace-Task-Id"] == told["task_id"]
    assert raw.headers["X-Headrace-Cost-Usd"] == "0.000001500"
    assert raw.headers["X-Headrace-Served-From"] == "attempt"


async def test_our_fields_go_into_the_body_or_into_headers(bed: Bed, intake: Running) -> None:
    async with client(intake, default_headers={"X-Headrace-Privacy": "sensitive", "X-Headrace-Session": "s"}) as ai:
        await ai.chat.completions.create(
            model="role:code_reviewer",
            messages=HELLO,
            max_completion_tokens=64,
            temperature=0,
            stop=["END"],
            seed=7,
            user="ann",
            metadata={"team": "x"},
            response_format={"type": "json_object"},
            extra_body={"privacy": "sensitive", "budget": 0.01, "deadline": 30, "mode": "local", "subject": "p"},
        )
    (seen,) = bed.router.tasks
    task = seen.task
    assert (task.role, task.model, task.privacy, task.session) == ("code_reviewer", None, Privacy.SENSITIVE, "s")
    assert (task.budget_nanodollars, task.mode, task.subject, task.user) == (10_000_000, Mode.LOCAL, "p", "ann")
    assert (task.lane, task.kind, dict(task.labels)) == (Lane.INTERACTIVE, "chat", {"team": "x"})
    assert task.deadline_at == task.submitted_at + 30_000
    assert (task.sampling.max_output_tokens, task.sampling.seed, task.sampling.json) == (64, 7, True)


async def test_a_stream_comes_in_pieces_and_ends_with_usage(bed: Bed, intake: Running) -> None:
    async with client(intake) as ai:
        chunks = await chunks_of(ai, stream_options={"include_usage": True})
    assert text_of(chunks) == "Echo: Hello"
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) == 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].headrace["provider"] == "ollama"  # type: ignore[attr-defined]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 16
    assert len({chunk.id for chunk in chunks}) == 1
    assert bed.router.tasks[0].task.stream


async def test_pieces_arrive_as_they_are_said(bed: Bed, intake: Running) -> None:
    go_on = asyncio.Event()

    async def slowly(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "one", 0)
        await go_on.wait()
        await router.say(seen, " two", 1)
        await router.finish(seen, answer=plain("one two"))

    bed.router.answer = slowly
    async with client(intake) as ai:
        stream = await ai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        got = ""
        async for chunk in stream:
            got += chunk.choices[0].delta.content or ""
            if got == "one":
                go_on.set()
    assert got == "one two"


async def test_a_cached_answer_streams_as_one_piece_with_all_headers(bed: Bed, intake: Running) -> None:
    async def cached(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, served_from=ServedFrom.CACHE)

    bed.router.answer = cached
    async with client(intake) as ai:
        raw = await ai.chat.completions.with_raw_response.create(model="auto", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in raw.parse()]
    assert text_of(chunks) == "Echo: Hello"
    assert raw.headers["X-Headrace-Served-From"] == "cache"


async def test_an_attempt_that_restarts_before_anything_was_sent_is_not_noticed(bed: Bed, intake: Running) -> None:
    async def restarted(router: StandIn, seen: Seen) -> None:
        await router.reply(seen, ReplyKind.RESTARTED, attempt=2)
        await router.say(seen, "Echo: ", 0, attempt=2, execution="e2")
        await router.finish(seen, attempts=2)

    bed.router.answer = restarted
    async with client(intake) as ai:
        assert text_of(await chunks_of(ai)) == "Echo: Hello"


async def test_one_that_goes_on_with_the_same_text_is_not_noticed_either(bed: Bed, intake: Running) -> None:
    async def same_again(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "Echo", 0)
        await router.reply(seen, ReplyKind.RESTARTED, attempt=2)
        await router.say(seen, "Echo: Hel", 0, attempt=2, execution="e2")
        await router.finish(seen, attempts=2)

    bed.router.answer = same_again
    async with client(intake) as ai:
        assert text_of(await chunks_of(ai)) == "Echo: Hello"


async def test_text_that_was_sent_and_is_not_the_answers_is_an_error(bed: Bed, intake: Running) -> None:
    async def otherwise(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "Wrong", 0)
        await router.reply(seen, ReplyKind.RESTARTED, attempt=2)
        await router.finish(seen, attempts=2)

    bed.router.answer = otherwise
    async with client(intake) as ai:
        with pytest.raises(openai.APIError, match="attempt being streamed failed"):
            await chunks_of(ai)


async def test_a_refusal_by_the_model_is_an_answer(bed: Bed, intake: Running) -> None:
    async def refuse(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.REFUSED, answer=plain("I cannot."), finish_reason="refusal")

    bed.router.answer = refuse
    async with client(intake) as ai:
        answer = await ai.chat.completions.create(model="auto", messages=HELLO)
        chunks = await chunks_of(ai)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.refusal) == ("content_filter", "I cannot.")
    assert answer.choices[0].message.content is None
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == "I cannot."
    assert chunks[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize(("status", "said"), [(TaskStatus.REFUSED, "I cannot."), (TaskStatus.SUCCEEDED, "")])
async def test_an_answer_goes_back_as_history_as_it_came(
    bed: Bed, intake: Running, status: TaskStatus, said: str
) -> None:
    async def answer_once(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=status, answer=plain(said))

    bed.router.answer = answer_once
    async with client(intake) as ai:
        message = (await ai.chat.completions.create(model="auto", messages=HELLO)).choices[0].message
        kept: Any = [message, message.model_dump(), message.model_dump(exclude_none=True), message.to_dict()]
        for earlier in kept:
            await ai.chat.completions.create(model="auto", messages=[*HELLO, earlier, *HELLO])
    assert len(bed.router.tasks) == 1 + len(kept)
    for seen in bed.router.tasks[1:]:
        assert [(m.role, content_bytes(m).decode()) for m in seen.task.messages][1] == ("assistant", said)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"status": TaskStatus.EXPIRED}, 504, "deadline_expired"),
        ({"status": TaskStatus.CANCELLED}, 499, "task_cancelled"),
        ({"status": TaskStatus.FAILED, "failure": Failure(code="no_local_capacity")}, 503, "no_local_capacity"),
        ({"status": TaskStatus.FAILED, "failure": Failure(code="bad_output")}, 502, "bad_output"),
    ],
)
async def test_an_end_without_answer_is_an_error_with_its_status(
    bed: Bed, intake: Running, stream: bool, changes: dict[str, Any], status: int, code: str
) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        # These APIs have no word for a wait; nor is it the beginning of an answer.
        await router.reply(seen, ReplyKind.WAITING, trail=(TrailStep(at=1, step="waited", reason="no_capacity: none"),))
        await router.finish(seen, **{"answer": None, **changes})

    bed.router.answer = fail
    async with client(intake) as ai:
        with pytest.raises(openai.APIStatusError) as error:
            await ai.chat.completions.create(model="auto", messages=HELLO, stream=stream)
    assert (error.value.status_code, error.value.code) == (status, code)
    assert error.value.response.headers["X-Headrace-Task-Id"] == bed.router.tasks[0].task.task_id
    assert len(bed.router.tasks) == 1


async def test_a_failure_in_mid_stream_is_raised_by_the_package(bed: Bed, intake: Running) -> None:
    async def break_down(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "Half", 0)
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code="broken", message="gone"))

    bed.router.answer = break_down
    async with client(intake) as ai:
        with pytest.raises(openai.APIError, match="gone"):
            await chunks_of(ai)


async def test_the_package_does_not_repeat_what_would_only_run_again(bed: Bed, intake: Running) -> None:
    async def expire(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.EXPIRED, answer=None)

    bed.router.answer = expire
    async with client(intake, max_retries=3) as ai:
        with pytest.raises(openai.InternalServerError):
            await ai.chat.completions.create(model="auto", messages=HELLO)
    assert len(bed.router.tasks) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_too_long_is_told_where_the_answer_will_be(bed: Bed, stream: bool) -> None:
    bed.router.answer = silence
    intake = await bed.intake(answer_seconds=0.05, heartbeat_seconds=0.02)
    async with client(intake) as ai:
        answer = chunks_of(ai) if stream else ai.chat.completions.create(model="auto", messages=HELLO)
        with pytest.raises(openai.APIError, match="/v1/tasks/") as error:
            await answer
    assert error.value.code == "answer-timeout"


async def test_a_sealed_answer_is_not_shown_as_text(bed: Bed, intake: Running) -> None:
    async def seal(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, answer=Content(cipher="key-9", data=b"\x01\x02"))

    bed.router.answer = seal
    async with client(intake) as ai:
        with pytest.raises(openai.InternalServerError, match="key-9"):
            await ai.chat.completions.create(model="auto", messages=HELLO)
        with pytest.raises(openai.APIError, match="key-9"):
            await chunks_of(ai)


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "invalid-request", "tools.0.type"),
        ({"n": 99}, "invalid-request", "n"),
        ({"modalities": ["audio"]}, "unsupported-parameter", "modalities"),
        ({"tool_choice": "required"}, "invalid-request", "tool_choice"),
        ({"temperature": 3}, "invalid-request", "temperature"),
        ({"messages": []}, "invalid-request", "messages"),
        ({"extra_body": {"privacy": "very"}}, "invalid-request", "privacy"),
        ({"model": "llama", "extra_body": {"role": "tester"}}, "invalid-request", "role"),
        ({"extra_headers": {"x-headrace-privcy": "x"}}, "unsupported-parameter", "x-headrace-privcy"),
    ],
)
async def test_what_cannot_be_done_is_a_bad_request_that_names_the_parameter(
    intake: Running, request_: dict[str, Any], code: str, param: str
) -> None:
    async with client(intake) as ai:
        with pytest.raises(openai.BadRequestError) as error:
            await ai.chat.completions.create(**{"model": "auto", "messages": HELLO, **request_})
    assert (error.value.code, error.value.param) == (code, param)


async def test_what_asks_for_nothing_special_is_taken(intake: Running) -> None:
    async with client(intake) as ai:
        answer = await ai.chat.completions.create(
            model="auto", messages=HELLO, tools=[], n=1, presence_penalty=0, logprobs=False, store=False
        )
    assert answer.choices[0].message.content == "Echo: Hello"


async def test_an_unknown_key_is_an_authentication_error(intake: Running) -> None:
    async with client(intake, key="hr_" + "a" * 16 + "_" + "b" * 48) as ai:
        with pytest.raises(openai.AuthenticationError):
            await ai.chat.completions.create(model="auto", messages=HELLO)


async def test_a_key_above_its_rate_is_told_when_to_go_on(intake: Running) -> None:
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "t", "scopes": ["tasks"], "requests_per_minute": 1})
    async with client(intake, key=made["key"]) as ai:
        await ai.chat.completions.create(model="auto", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as error:
            await ai.chat.completions.create(model="auto", messages=HELLO)
    assert 0 < int(error.value.response.headers["Retry-After"]) <= 60


async def test_models_are_listed_and_looked_up(bed: Bed, intake: Running) -> None:
    publisher = Publisher(bed.log.producer(), bed.codec, "test")
    node = NodeStatus(
        node="n1", place=Place.LOCAL, provider="ollama", healthy=True, simulated=True,
        models=(ModelStatus(name="phi3:3.8b"),), reported_at=wall_clock_ms(),
    )  # fmt: skip
    await publisher.send(Publication(spec=FLEET_STATUS, event=node, event_id="1", key=b"n1", tenant="", time_ms=1))
    async with client(intake) as ai, asyncio.timeout(30):
        while (names := [model.id async for model in ai.models.list()]) == ["auto"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert names == ["auto", "ollama/phi3:3.8b"]
        found = await ai.models.retrieve("ollama/phi3:3.8b")
        assert found.owned_by == "ollama"
        assert found.headrace["simulated"] is True  # type: ignore[attr-defined]
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("ollama/nothing")


def test_the_synchronous_client_works_as_well() -> None:
    """The plain client of most programs, in a thread of its own against the same service."""

    async def scenario() -> str:
        from headrace_testing.intake_bed import open_bed

        async with open_bed() as bed, bed.running() as intake:
            return await asyncio.to_thread(ask, intake.url)

    def ask(url: str) -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as ai:
            return ai.chat.completions.create(model="auto", messages=HELLO).choices[0].message.content or ""

    assert asyncio.run(scenario()) == "Echo: Hello"
