"""The unmodified `anthropic` package against intake: answers, streams, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    AnswerChoice,
    AnswerPiece,
    Content,
    Failure,
    MessagePart,
    PartKind,
    Privacy,
    ReplyKind,
    TaskStatus,
    Usage,
)
from headrace_intake.decide.on_disconnect import HEADER
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, silence

ASKED: Any = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
CALL = MessagePart(kind=PartKind.TOOL_CALL, call_id="c1", name="f", content=plain('{"city": "Lisbon"}'))
THOUGHT = MessagePart(kind=PartKind.REASONING, content=plain("hm"), provider="anthropic", signature=plain("sig=="))
WHOLE = AnswerChoice(
    parts=(THOUGHT, MessagePart(kind=PartKind.TEXT, content=plain("Well")), CALL), finish_reason="tool_calls"
)


def client(intake: Running, key: str = BOOTSTRAP_KEY, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=intake.url, api_key=key, _strict_response_validation=True,
        **{"max_retries": 0, "timeout": 10, **options},
    )  # fmt: skip


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        yield running


async def thinks_and_calls(router: StandIn, seen: Seen) -> None:
    """A thought with its signature, a text, and a call in pieces."""
    if seen.task.stream:
        pieces = [
            AnswerPiece(kind=PartKind.REASONING, content=plain("hm"), provider="anthropic"),
            AnswerPiece(kind=PartKind.REASONING, provider="anthropic", signature=plain("sig==")),
            None,
            AnswerPiece(kind=PartKind.TOOL_CALL, content=plain('{"city": "L'), call_id="c1", name="f"),
            AnswerPiece(kind=PartKind.TOOL_CALL, content=plain('isbon"}')),
        ]
        for sequence, piece in enumerate(pieces):
            said: Any = {"text": plain("Well")} if piece is None else {"text": plain(""), "pieces": (piece,)}
            await router.reply(seen, ReplyKind.DELTA, sequence=sequence, attempt=1, execution_id="e1", **said)
    tokens = Usage(input_tokens=50, output_tokens=9, cached_input_tokens=20)
    await router.finish(seen, answer=plain("Well"), choices=(WHOLE,), finish_reason="tool_calls", usage=tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_has_all_blocks_and_goes_back_as_it_came(bed: Bed, intake: Running, stream: bool) -> None:
    bed.router.answer = thinks_and_calls
    async with client(intake) as ai:
        if stream:
            async with ai.messages.stream(**ASKED) as events:
                seen = [event.type async for event in events]
                answer = await events.get_final_message()
            assert seen[0] == "message_start"
            assert seen[-1] == "message_stop"
        else:
            answer = await ai.messages.create(**ASKED)
        assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
        thought, said, called = answer.content
        assert (thought.thinking, thought.signature) == ("hm", "sig==")  # type: ignore[union-attr]
        assert said.text == "Well"  # type: ignore[union-attr]
        assert (called.id, called.input) == ("c1", {"city": "Lisbon"})  # type: ignore[union-attr]
        assert answer.stop_reason == "tool_use"
        assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (30, 20)
        result: Any = {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}
        bed.router.answer = silence
        again = [
            *ASKED["messages"],
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ]
        with pytest.raises(anthropic.APITimeoutError):
            await ai.messages.create(**{**ASKED, "messages": again, "timeout": 0.2})
    assistant, tool = bed.router.tasks[-1].task.messages[1:]
    assert assistant.parts == WHOLE.parts
    assert tool.role == "tool"
    await bed.router.finish(bed.router.tasks[-1])


async def test_our_fields_go_into_the_body_or_into_headers(bed: Bed, intake: Running) -> None:
    async with client(intake, default_headers={"X-Headrace-Privacy": "sensitive", "anthropic-beta": "x-2026"}) as ai:
        raw = await ai.messages.with_raw_response.create(
            **{**ASKED, "model": "role:code_reviewer"}, metadata={"user_id": "ann"}, extra_body={"budget": 0.01}
        )
        await ai.beta.messages.create(**ASKED, betas=["context-management-2025-06-27"])
    task = bed.router.tasks[0].task
    assert (task.role, task.privacy, task.user, task.budget_nanodollars) == (
        "code_reviewer", Privacy.SENSITIVE, "ann", 10_000_000,
    )  # fmt: skip
    assert raw.headers["X-Headrace-Task-Id"] == task.task_id
    assert raw.headers["request-id"]
    assert (await raw.parse()).id == f"msg_{task.task_id}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "raised", "kind"),
    [
        (
            {"failure": Failure(code="context_too_small", message="long")},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        ({"failure": Failure(code="unknown_model", message="m")}, anthropic.NotFoundError, "not_found_error"),
        ({"failure": Failure(code="privacy", message="p")}, anthropic.PermissionDeniedError, "permission_error"),
        ({"failure": Failure(code="no_capacity", message="c")}, anthropic.InternalServerError, "overloaded_error"),
        ({"failure": Failure(code="bad_output", message="b")}, anthropic.InternalServerError, "api_error"),
        ({"status": TaskStatus.EXPIRED}, anthropic.InternalServerError, "timeout_error"),
        ({"failure": Failure(code="too_many_live_tasks", message="t")}, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
async def test_an_end_without_answer_is_the_packages_error(
    bed: Bed, intake: Running, stream: bool, changes: dict[str, Any], raised: type[anthropic.APIStatusError], kind: str
) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, **{"answer": None, "status": TaskStatus.FAILED, **changes})

    bed.router.answer = fail
    async with client(intake) as ai:
        with pytest.raises(raised) as error:
            await ai.messages.create(**ASKED, stream=stream)
    body: Any = error.value.body
    assert body["error"]["type"] == kind
    assert error.value.request_id == body["request_id"]


@pytest.mark.parametrize("said", ["Half", ""])
async def test_a_failure_in_mid_stream_is_raised_and_no_half_call_is_left(bed: Bed, intake: Running, said: str) -> None:
    async def break_down(router: StandIn, seen: Seen) -> None:
        piece = AnswerPiece(kind=PartKind.TOOL_CALL, content=plain('{"city": "L'), call_id="c1", name="f")
        await router.reply(
            seen, ReplyKind.DELTA, text=plain(said), pieces=(piece,), sequence=0, attempt=1, execution_id="e1"
        )
        await asyncio.sleep(0.05)
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code="broken", message="gone"))

    bed.router.answer = break_down
    seen: list[Any] = []

    async def follow() -> None:
        async with client(intake) as ai, ai.messages.stream(**ASKED) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(anthropic.APIStatusError, match="gone"):
        await follow()
    assert "message_stop" not in {event.type for event in seen}
    assert "tool_use" not in {getattr(getattr(event, "content_block", None), "type", "") for event in seen}


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_too_long_is_told_where_the_answer_will_be(bed: Bed, stream: bool) -> None:
    bed.router.answer = silence
    intake = await bed.intake(answer_seconds=0.05, heartbeat_seconds=0.02)

    async def ask() -> None:
        async with client(intake) as ai:
            answer: Any = await ai.messages.create(**ASKED, stream=stream)
            async for _ in answer:
                pass

    with pytest.raises(anthropic.APIStatusError, match="/v1/tasks/"):
        await ask()


async def test_a_silent_stream_has_pings(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake(answer_seconds=0.2, heartbeat_seconds=0.02)
    async with intake.http.post(
        f"{intake.url}/v1/messages", json={**ASKED, "stream": True}, headers={"x-api-key": BOOTSTRAP_KEY}
    ) as response:
        raw = (await response.read()).decode()
    events = [block.splitlines() for block in raw.strip().split("\n\n")]
    assert sum(block[0] == "event: ping" for block in events) > 3
    assert all(
        json.loads(block[1].removeprefix("data: "))["type"] == block[0].removeprefix("event: ") for block in events
    )
    assert events[-1][0] == "event: error"


async def test_a_sealed_answer_is_not_shown_as_text(bed: Bed, intake: Running) -> None:
    async def seal(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, answer=Content(cipher="key-9", data=b"\x01\x02"))

    bed.router.answer = seal
    async with client(intake) as ai:
        with pytest.raises(anthropic.InternalServerError, match="key-9"):
            await ai.messages.create(**ASKED)


@pytest.mark.parametrize("headers", [{"x-api-key": "hr_" + "a" * 16 + "_" + "b" * 48}, {}])
async def test_an_unknown_key_is_an_authentication_error(intake: Running, headers: dict[str, str]) -> None:
    async with intake.http.post(f"{intake.url}/v1/messages", json=ASKED, headers=headers) as response:
        body = await response.json()
        assert response.status == 401
    assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
    assert response.headers["request-id"] == body["request_id"]


@pytest.mark.parametrize("said", [{"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, {"max_tokens": 0}])
async def test_what_cannot_be_done_is_a_bad_request_that_names_the_parameter(
    bed: Bed, intake: Running, said: dict[str, Any]
) -> None:
    async with client(intake) as ai:
        with pytest.raises(anthropic.BadRequestError, match=next(iter(said))):
            await ai.messages.create(**{**ASKED, **said})
    assert bed.router.tasks == []


async def test_an_unknown_wish_for_hang_ups_is_a_bad_request(bed: Bed, intake: Running) -> None:
    status, body, _ = await intake.call("POST", "/v1/messages", ASKED, **{HEADER: "sometimes"})
    assert (status, body["type"]) == (400, "error")
    assert HEADER in body["error"]["message"]


async def test_tokens_are_counted_without_a_task(bed: Bed, intake: Running) -> None:
    async with client(intake) as ai:
        counted = await ai.messages.count_tokens(
            model="auto", messages=[{"role": "user", "content": "Hello there, how are you?"}], system="Be kind"
        )
        with pytest.raises(anthropic.BadRequestError):
            await ai.messages.count_tokens(model="auto", messages=[])
    assert 5 < counted.input_tokens < 25
    assert bed.router.tasks == []


async def test_models_are_listed_in_each_clients_form(intake: Running) -> None:
    async with client(intake) as ai:
        listed = [model.id async for model in ai.models.list()]
        assert (await ai.models.retrieve("auto")).id == "auto"
        with pytest.raises(anthropic.NotFoundError):
            await ai.models.retrieve("nothing/like-it")
    _, body, _ = await intake.call("GET", "/v1/models")
    assert [model["id"] for model in body["data"]] == listed


async def test_the_synchronous_client_works_too(bed: Bed, intake: Running) -> None:
    def ask() -> tuple[str, str]:
        with anthropic.Anthropic(base_url=intake.url, api_key=BOOTSTRAP_KEY, _strict_response_validation=True) as ai:
            whole = ai.messages.create(**ASKED)
            with ai.messages.stream(**ASKED) as events:
                streamed = "".join(events.text_stream)
            return whole.content[0].text, streamed

    assert await asyncio.to_thread(ask) == ("Echo: Hello", "Echo: Hello")
    assert text_of(bed.router.tasks[0].task.messages[0].content) == "Hello"
