"""What the chat endpoint gave out it takes back: every answer, in every form in which clients keep it, as history."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from headrace_contracts.cargo import content_bytes
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Message, PartKind, TaskStatus, Usage
from headrace_intake.adapters.encoding import dumps
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.chat_answers import Chunks, completion
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, taken_task
from headrace_intake.decide.views import TaskView
from headrace_runtime.bodies import parse_json
from headrace_runtime.http import parse_model
from headrace_runtime.problems import Problem
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion

BEFORE: dict[str, Any] = {"role": "user", "content": "Hello"}
AFTER: dict[str, Any] = {"role": "user", "content": "And now?"}
TEXT = st.text(st.characters(codec="utf-8"))
REFUSED_WITHOUT_WORDS = "The model declined to answer."

ENDS = st.builds(
    TaskView,
    task_id=st.uuids().map(str),
    tenant=st.just("acme"),
    submitted_at=st.integers(1_700_000_000_000, 1_900_000_000_000),
    status=st.sampled_from([TaskStatus.SUCCEEDED, TaskStatus.REFUSED]),
    answer=st.none() | TEXT.map(plain),
    finish_reason=st.sampled_from([None, "stop", "length", "refusal"]),
    provider=st.sampled_from([None, "groq"]),
    model=st.sampled_from([None, "llama"]),
    usage=st.none() | st.just(Usage(input_tokens=1, output_tokens=2)),
    cost_nanodollars=st.none() | st.integers(0, 10**12),
)

# How clients keep a message: as the SDK dumps it, as plain JSON, by hand.
KEPT: dict[str, Callable[[Any], dict[str, Any]]] = {
    "model_dump": lambda message: message.model_dump(),
    "model_dump(mode=json)": lambda message: message.model_dump(mode="json"),
    "model_dump(exclude_none)": lambda message: message.model_dump(exclude_none=True),
    "model_dump(exclude_unset)": lambda message: message.model_dump(exclude_unset=True),
    "to_dict": lambda message: message.to_dict(),
    "model_dump_json": lambda message: json.loads(message.model_dump_json()),
    "with what other servers add": lambda message: {
        **message.model_dump(),
        "annotations": [],
        "tool_calls": [],
        "reasoning": "Thinking",
        "reasoning_content": None,
        "reasoning_details": [{"type": "text"}],
    },
    "content and refusal as parts": lambda message: {
        "role": "assistant",
        "content": [
            *([{"type": "text", "text": message.content}] if message.content is not None else []),
            *([{"type": "refusal", "refusal": message.refusal}] if message.refusal is not None else []),
        ],
    },
}


def answer_text(end: TaskView) -> str:
    return "" if end.answer is None else text_of(end.answer)


def received(message: Any) -> tuple[Message, ...]:
    """The conversation that both endpoints read from a request whose history holds the message."""
    body = {"model": "auto", "messages": [BEFORE, message, AFTER]}
    sent = parse_json(json.dumps(body).encode())
    chat = draft_of_chat(parse_model(taken(sent), ChatCompletionRequest))
    task = draft_of_task(parse_model(taken_task(sent), TaskRequest))
    assert chat.messages == task.messages
    return chat.messages


def expect_taken_back(message: Any, said: str) -> None:
    first, answer, last = received(message)
    assert (first.role, answer.role, last.role) == ("user", "assistant", "user")
    assert content_bytes(answer).decode() == said


@given(ENDS, st.sampled_from(sorted(KEPT)))
def test_a_whole_answer_is_taken_back_word_for_word(end: TaskView, kept: str) -> None:
    document = json.loads(dumps(completion(end)))
    said = answer_text(end) or (REFUSED_WITHOUT_WORDS if end.status == TaskStatus.REFUSED else "")
    raw = document["choices"][0]["message"]
    expect_taken_back(raw, said)
    expect_taken_back({name: value for name, value in raw.items() if value is not None}, said)
    for message in (
        ChatCompletion.model_validate(document).choices[0].message,
        ParsedChatCompletion[None].model_validate(document).choices[0].message,
    ):
        expect_taken_back(KEPT[kept](message), said)


@given(
    ENDS,
    st.lists(TEXT, max_size=4),
    st.booleans(),
    st.sampled_from(sorted(set(KEPT) - {"content and refusal as parts"})),
)
def test_a_streamed_answer_is_taken_back_word_for_word(
    end: TaskView, pieces: list[str], include_usage: bool, kept: str
) -> None:
    chunks = Chunks(end.task_id, end.submitted_at, "auto", include_usage)
    rest = answer_text(end)
    kind = PartKind.REFUSAL if end.status == TaskStatus.REFUSED else PartKind.TEXT
    parts = [*(HeardPiece(PartKind.TEXT, 0, 0, piece, None, None) for piece in pieces),
             *([HeardPiece(kind, 0, 0, rest, None, None)] if rest else [])]  # fmt: skip
    sent = [chunks.opening(), *map(chunks.piece, parts), *chunks.closing(end)]
    state = ChatCompletionStreamState()
    for chunk in sent:
        state.handle_chunk(ChatCompletionChunk.model_validate(json.loads(dumps(chunk))))
    message = state.current_completion_snapshot.choices[0].message
    expect_taken_back(KEPT[kept](message), "".join(pieces) + rest)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "audio": None},
        {"role": "assistant", "function_call": None, "parsed": None, "reasoning": None},
        {"role": "assistant", "content": "", "annotations": [{"type": "url_citation", "url_citation": {}}]},
    ],
)
def test_an_answer_without_words_is_taken_back_too(message: dict[str, Any]) -> None:
    expect_taken_back(message, "")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages.1.content"),
        ({"role": "user", "content": None}, "messages.1.content"),
        ({"role": "system", "content": None}, "messages.1.content"),
        ({"role": "user", "content": "x", "refusal": "I will not"}, "messages.1.refusal"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "messages.1.content"),
        ({"role": "user", "content": "x", "reasoning": "because"}, "messages.1.reasoning"),
        ({"role": "assistant", "content": 1}, "messages.1.content"),
        ({"role": "assistant", "refusal": 1}, "messages.1.refusal"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}, "messages.1.tool_calls.0.function"),
        ({"role": "user", "content": "x", "audio": {"id": "1"}}, "messages.1.audio"),
        ({"role": "tool", "content": "x"}, "messages.1.tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "messages.1.tool_call_id"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            "messages.1.tool_calls",
        ),
    ],
)
def test_what_no_answer_holds_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    try:
        received(message)
    except (Problem, Refusal) as refused:
        assert refused.param == param  # noqa: PT017 - two errors, which share only this
    else:
        pytest.fail("it was taken")
