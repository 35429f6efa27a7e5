"""The Responses API through the unmodified `openai` package: answers, tools, streams, errors."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
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
)
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, silence
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PNG_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
TOOLS: Any = [
    {
        "type": "function", "name": "get_weather", "description": "The weather of a city.", "strict": True,
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": False,
        },
    },
    {"type": "function", "name": "read_clock", "parameters": {"type": "object", "properties": {}}, "strict": False},
]  # fmt: skip
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Finding(BaseModel):
    """What a reviewing agent gives."""

    file: str
    line: int


def client(intake: Running, key: str = BOOTSTRAP_KEY, **options: Any) -> Any:
    return openai.AsyncOpenAI(
        base_url=f"{intake.url}/v1", api_key=key, _strict_response_validation=True,
        **{"max_retries": 0, "timeout": 10, **options},
    )  # fmt: skip


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        yield running


def call(call_id: str, name: str, arguments: str) -> MessagePart:
    return MessagePart(kind=PartKind.TOOL_CALL, call_id=call_id, name=name, content=plain(arguments))


def text(said: str) -> MessagePart:
    return MessagePart(kind=PartKind.TEXT, content=plain(said))


def answers(bed: Bed, *parts: MessagePart, reason: str = "stop", pieces: tuple[AnswerPiece, ...] = ()) -> None:
    """Let the next tasks be answered so; the pieces are sent first, one by one."""

    async def answer(router: StandIn, seen: Seen) -> None:
        if seen.task.stream:
            for number, piece in enumerate(pieces):
                await router.reply(
                    seen, ReplyKind.DELTA, pieces=(piece,), sequence=number, attempt=1, execution_id="e1"
                )
        choice = AnswerChoice(parts=parts, finish_reason=reason)
        texts = "".join(text_of(part.content) for part in parts if part.kind is PartKind.TEXT and part.content)
        await router.finish(seen, answer=plain(texts), choices=(choice,), finish_reason=reason)

    bed.router.answer = answer


async def events_of(ai: Any, **request: Any) -> list[Any]:
    stream = await ai.responses.create(**{"model": "auto", "input": "Hello", "stream": True, **request})
    events = [event async for event in stream]
    for number, event in enumerate(events):
        assert event.sequence_number == number
        EVENT.validate_python(event.to_dict(), strict=False)
    return events


def types_of(events: list[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


async def test_an_answer_is_a_response_that_says_who_gave_it(bed: Bed, intake: Running) -> None:
    async with client(intake) as ai:
        raw = await ai.responses.with_raw_response.create(
            model="auto", input="Hello", instructions="Be brief.", metadata={"team": "x"}, temperature=0.5, user="ann",
            max_output_tokens=99, prompt_cache_key="k", safety_identifier="s", truncation="auto", max_tool_calls=3,
        )  # fmt: skip
    answer = raw.parse()
    assert (answer.output_text, answer.status, answer.model) == ("Echo: Hello", "completed", "ollama/phi3")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (11, 5, 16)
    assert (answer.instructions, answer.metadata, answer.user) == ("Be brief.", {"team": "x"}, "ann")
    assert (answer.max_output_tokens, answer.prompt_cache_key, answer.max_tool_calls) == (99, "k", 3)
    task = bed.router.tasks[0].task
    assert answer.id == f"resp_{task.task_id}"
    assert raw.headers["X-Headrace-Task-Id"] == task.task_id
    assert [(message.role, text_of(message.content)) for message in task.messages] == [
        ("system", "Be brief."), ("user", "Hello"),
    ]  # fmt: skip
    assert (task.sampling.max_output_tokens, task.sampling.temperature, dict(task.labels)) == (99, 0.5, {"team": "x"})
    assert not task.allow_cached


async def test_our_fields_are_taken_as_in_the_chat_api(bed: Bed, intake: Running) -> None:
    async with client(intake, default_headers={"X-Headrace-Privacy": "sensitive"}) as ai:
        await ai.responses.create(
            model="role:tester", input="Hello", temperature=0, extra_body={"deadline": 30, "session": "s", "seed": 7}
        )
    task = bed.router.tasks[0].task
    assert (task.role, task.privacy, task.session, task.sampling.seed) == ("tester", Privacy.SENSITIVE, "s", 7)
    assert task.allow_cached


async def test_calls_go_out_and_their_outputs_come_back(bed: Bed, intake: Running) -> None:
    answers(bed, call("c1", "get_weather", '{"city": "Bonn"}'), call("c2", "read_clock", "{}"), reason="tool_calls")
    said: list[Any] = [{"role": "user", "content": "Weather and time?"}]
    async with client(intake) as ai:
        first = await ai.responses.create(model="auto", input=said, tools=TOOLS, tool_choice="required")
        calls = [item for item in first.output if item.type == "function_call"]
        assert [(item.call_id, item.name, json.loads(item.arguments)) for item in calls] == [
            ("c1", "get_weather", {"city": "Bonn"}), ("c2", "read_clock", {}),
        ]  # fmt: skip
        assert [tool.name for tool in first.tools if tool.type == "function"] == ["get_weather", "read_clock"]
        answers(bed, text("Sunny at noon."))
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "c2", "output": [
                {"type": "input_text", "text": "noon"}, {"type": "input_image", "image_url": PNG_URL, "detail": "low"},
            ]},
        ]  # fmt: skip
        kept: list[list[Any]] = [
            list(first.output), [item.model_dump() for item in first.output],
            [item.to_dict() for item in first.output], [item.model_dump(exclude_none=True) for item in first.output],
        ]  # fmt: skip
        for earlier in kept:
            second = await ai.responses.create(model="auto", input=[*said, *earlier, *outputs], tools=TOOLS)
            assert second.output_text == "Sunny at noon."
            user, assistant, one, two = bed.router.tasks[-1].task.messages
            assert (user.role, assistant.role, one.role, two.role) == ("user", "assistant", "tool", "tool")
            assert [part.call_id for part in assistant.parts] == ["c1", "c2"]
            assert [part.kind for part in two.parts] == [PartKind.TOOL_RESULT, PartKind.IMAGE]


async def test_an_answer_is_parsed_into_a_model(bed: Bed, intake: Running) -> None:
    answers(bed, text('{"file": "app.py", "line": 3}'))
    async with client(intake) as ai:
        answer = await ai.responses.parse(model="auto", input="Review", text_format=Finding)
    assert answer.output_parsed == Finding(file="app.py", line=3)
    options = bed.router.tasks[0].task.options
    assert options is not None
    assert options.response_format is not None
    assert (options.response_format.name, options.response_format.strict) == ("Finding", True)


async def test_a_stream_has_openais_events_in_their_order(bed: Bed, intake: Running) -> None:
    async with client(intake) as ai:
        events = await events_of(ai)
    assert types_of(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert events[-1].response.output_text == "Echo: Hello"
    assert events[-1].response.output[0].id == events[2].item.id
    assert events[-1].response.usage.total_tokens == 16


async def test_thoughts_text_and_sixteen_calls_stream_in_pieces(bed: Bed, intake: Running) -> None:
    arguments = [json.dumps({"city": f"City {number}"}) for number in range(16)]
    thought = MessagePart(kind=PartKind.REASONING, content=plain("Hm."), provider="anthropic", signature=plain("sig"))
    parts = (thought, text("Let me look."), *(call(f"c{n}", "get_weather", said) for n, said in enumerate(arguments)))
    pieces = [
        *(AnswerPiece(kind=PartKind.REASONING, content=plain(piece)) for piece in ("Hm", ".")),
        *(AnswerPiece(kind=PartKind.TEXT, content=plain(piece)) for piece in ("Let me ", "look.")),
    ]
    for number, said in enumerate(arguments):
        tool: Any = {"kind": PartKind.TOOL_CALL, "part": number}
        pieces += [
            AnswerPiece(**tool, call_id=f"c{number}", name="get_weather", content=plain(said[:5])),
            AnswerPiece(**tool, content=plain(said[5:])),
        ]
    answers(bed, *parts, reason="tool_calls", pieces=tuple(pieces))
    async with client(intake) as ai:
        events = await events_of(ai, tools=TOOLS)
        async with ai.responses.stream(model="auto", input="Hello", tools=TOOLS) as stream:
            final = await stream.get_final_response()
    output = events[-1].response.output
    assert [item.type for item in output] == ["reasoning", "message", *["function_call"] * 16]
    assert [item.arguments for item in output[2:]] == arguments
    assert [item.arguments for item in final.output if item.type == "function_call"] == arguments
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == arguments
    assert output[0].encrypted_content
    assert types_of(events)[:12] == [
        "created", "in_progress", "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done",
        "output_item.done", "output_item.added", "content_part.added", "output_text.delta",
    ]  # fmt: skip
    # Thoughts go back to the provider that signed them.
    outputs: list[Any] = [{"type": "function_call_output", "call_id": f"c{n}", "output": "sunny"} for n in range(16)]
    async with client(intake) as ai:
        await ai.responses.create(model="auto", input=["Hello", *output, *outputs][1:], tools=TOOLS)
    back = bed.router.tasks[-1].task.messages[0].parts[0]
    assert (back.kind, back.provider, text_of(back.signature or plain(""))) == (PartKind.REASONING, "anthropic", "sig")


@pytest.mark.parametrize("cut", [0, 6, 14])
async def test_half_a_call_is_never_given_as_a_call(bed: Bed, intake: Running, cut: int) -> None:
    whole = '{"city": "Bonn"}'

    async def fails_over(router: StandIn, seen: Seen) -> None:
        piece = AnswerPiece(kind=PartKind.TOOL_CALL, call_id="c1", name="get_weather", content=plain(whole[:cut]))
        await router.reply(seen, ReplyKind.DELTA, pieces=(piece,), sequence=0, attempt=1, execution_id="e1")
        await router.reply(seen, ReplyKind.RESTARTED, attempt=2)
        choice = AnswerChoice(parts=(call("c9", "get_weather", '{"city": "Rome"}'),), finish_reason="tool_calls")
        await router.finish(seen, answer=plain(""), choices=(choice,), finish_reason="tool_calls", attempts=2)

    bed.router.answer = fails_over
    seen_types: list[str] = []

    async def listen(stream: Any) -> None:
        async for event in stream:
            seen_types.append(event.type)  # noqa: PERF401 - they count although the stream ends with an error

    async with client(intake) as ai:
        stream = await ai.responses.create(model="auto", input="Hello", tools=TOOLS, stream=True)
        with pytest.raises(openai.APIError, match="attempt being streamed failed"):
            await listen(stream)
    assert "response.output_item.added" in seen_types
    assert not {"response.output_item.done", "response.completed"} & set(seen_types)


async def test_an_answer_cut_at_the_limit_is_incomplete(bed: Bed, intake: Running) -> None:
    answers(bed, text("Once upon"), reason="length", pieces=(AnswerPiece(kind=PartKind.TEXT, content=plain("Once")),))
    async with client(intake) as ai:
        answer = await ai.responses.create(model="auto", input="Hello", max_output_tokens=16)
        events = await events_of(ai)
    for said in (answer, events[-1].response):
        assert (said.status, said.incomplete_details.reason, said.output_text) == (
            "incomplete", "max_output_tokens", "Once upon",
        )  # fmt: skip
    assert types_of(events)[-1] == "incomplete"


async def test_a_refusal_by_the_model_is_an_answer(bed: Bed, intake: Running) -> None:
    async def refuse(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.REFUSED, answer=plain("I cannot."), finish_reason="refusal")

    bed.router.answer = refuse
    async with client(intake) as ai:
        answer = await ai.responses.create(model="auto", input="Hello")
        events = await events_of(ai)
        assert types_of(events)[3:7] == ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]
        for said in (answer, events[-1].response):
            (message,) = said.output
            assert message.content[0].refusal == "I cannot."
            await ai.responses.create(model="auto", input=[*said.output, {"role": "user", "content": "And now?"}])
            assert bed.router.tasks[-1].task.messages[0].parts[0].kind is PartKind.REFUSAL


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"status": TaskStatus.EXPIRED}, 504, "deadline_expired"),
        ({"status": TaskStatus.FAILED, "failure": Failure(code="context_too_long")}, 400, "context_length_exceeded"),
        ({"status": TaskStatus.FAILED, "failure": Failure(code="unknown_model")}, 404, "model_not_found"),
        ({"status": TaskStatus.FAILED, "failure": Failure(code="no_capacity")}, 503, "no_capacity"),
    ],
)
async def test_an_end_without_answer_is_an_error_with_its_status(
    bed: Bed, intake: Running, stream: bool, changes: dict[str, Any], status: int, code: str
) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, **{"answer": None, **changes})

    bed.router.answer = fail
    async with client(intake) as ai:
        with pytest.raises(openai.APIStatusError) as error:
            await ai.responses.create(model="auto", input="Hello", stream=stream)
    assert (error.value.status_code, error.value.code) == (status, code)


async def test_a_failure_in_mid_stream_ends_the_response_as_failed(bed: Bed, intake: Running) -> None:
    async def break_down(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "Half", 0)
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code="broken", message="gone"))

    bed.router.answer = break_down
    async with client(intake) as ai:
        events = await events_of(ai)
    assert types_of(events)[-1] == "failed"
    failed = events[-1].response
    assert (failed.status, failed.error.code, "gone" in failed.error.message) == ("failed", "server_error", True)


async def test_who_waits_too_long_is_told_so(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake(answer_seconds=0.05, heartbeat_seconds=0.02)
    async with client(intake) as ai:
        for answer in (ai.responses.create(model="auto", input="Hello"), events_of(ai)):
            with pytest.raises(openai.APIError, match="/v1/tasks/"):
                await answer


async def test_a_sealed_answer_is_not_shown_as_text(bed: Bed, intake: Running) -> None:
    async def seal(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, answer=Content(cipher="key-9", data=b"\x01\x02"))

    bed.router.answer = seal
    async with client(intake) as ai:
        with pytest.raises(openai.InternalServerError, match="key-9"):
            await ai.responses.create(model="auto", input="Hello")
        with pytest.raises(openai.APIError, match="key-9"):
            await events_of(ai)


async def test_a_background_response_returns_at_once(bed: Bed, intake: Running) -> None:
    bed.router.answer = silence
    async with client(intake) as ai:
        queued = await ai.responses.create(model="auto", input="Hello", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])


@pytest.mark.parametrize(
    ("request_", "param", "said"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "web_search"),
        ({"tools": [*TOOLS, {"type": "mcp", "server_label": "x"}]}, "tools.2.type", "mcp"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.type", "custom"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "functions of the caller"),
        ({"tool_choice": {"type": "function", "name": "nothing"}, "tools": TOOLS}, "tool_choice", "nothing"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": 7}}]}, "tools.0.parameters", "Schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 7}}}}, "text.format.schema", ""),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input.0.type", "items of type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input.file_id", ""),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]}, "input", "data "),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input.0.content.0", ""),
        ({"input": [{"role": "system", "content": [{"type": "input_image", "image_url": PNG_URL}]}]},
         "input.0.content.0.type", "cannot hold"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "nope"}]},
         "input.0.arguments", "JSON object"),
        ({"input": [{"type": "function_call_output", "call_id": "c7", "output": "x"}]}, "input", "No tool call found"),
        ({"input": [{"type": "function_call", "call_id": "c8", "name": "f", "arguments": "{}"}]}, "input", "c8"),
        ({"input": []}, "input", "nothing"),
        ({"input": ""}, "input", "nothing"),
        ({"background": True, "store": False}, "background", "stored"),
        ({"previous_response_id": "resp_x", "conversation": "conv_x"}, "previous_response_id", "either"),
        ({"include": ["everything"]}, "include", "everything"),
        ({"max_output_tokens": 0}, "max_output_tokens", ""),
        ({"extra_body": {"max_tokns": 3}}, "max_tokns", "not supported"),
        ({"extra_body": {"prompt": {"id": "p"}}}, "prompt", "not supported"),
        ({"extra_body": {"privacy": "very"}}, "privacy", ""),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_a_bad_request_that_names_the_parameter(
    intake: Running, request_: dict[str, Any], param: str, said: str
) -> None:
    async with client(intake) as ai:
        with pytest.raises(openai.BadRequestError) as error:
            await ai.responses.create(**{"model": "auto", "input": "Hello", **request_})
    assert (error.value.param or "").startswith(param), error.value.param
    assert said in error.value.message
