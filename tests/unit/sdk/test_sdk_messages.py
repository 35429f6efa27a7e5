"""Messages as callers write them, over HTTP and over Kafka."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from headrace import Audio, File, Image, Message, Prompt, Reasoning, RefusalText, TaskOptions, Text, Tool, ToolCall
from headrace import ToolResult as Result
from headrace.kafka_tasks import conversation_events, fields_of, record_key, task_of_completion
from headrace.message_documents import document, documents_of, message_of
from headrace.parsing import task_of
from headrace.requests import task_body
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AnswerChoice,
    Citation,
    Content,
    MessagePart,
    PartKind,
    ServedFrom,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
    Usage,
)
from headrace_intake.decide import drafts
from headrace_intake.decide.choices import choices_document
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, taken_task
from headrace_intake.decide.views import TaskView, document_text, with_completion
from headrace_runtime.http import parse_model

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 "


def told(view: TaskView) -> Any:
    """The task as intake gives it out."""
    return json.loads(document_text(view, choices_document(view)))


def look(place: str) -> str:
    """Look somewhere."""
    return place


PROMPTS: dict[str, Prompt] = {
    "a text": "Hello",
    "a message": Message.user("What is this?", Image.from_bytes(PNG, detail="low")),
    "texts and parts": ["What is this?", Image.at("https://example.com/a.png"), "Be brief."],
    "objects": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello", "name": "ann"}],
    "parts as objects": [{"role": "user", "content": [
        {"type": "text", "text": "Sum up", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
    ]}],
    "media": [Message.user("x", Audio(b"RIFF", "audio/wav"), File(b"%PDF", "application/pdf", "a.pdf"),
                           Text("cached", 300), Image.from_bytes(WEBP), name="ann")],
    "a tool loop": [
        Message.system("Use tools."), "Look around",
        Message.assistant(Reasoning("Hm", "anthropic", "sig"), "I look.", ToolCall("c1", "look", '{"place": "up"}'),
                          ToolCall("c2", "look")),
        Message.tool(Result("c1", "the sky")),
        Message.tool(Result("c2", "nothing", is_error=True)),
        "and now?",
    ],
    "a refusal": ["Do it", Message.assistant(RefusalText("I will not.")), "Why?"],
    "a result with an image": ["Look", Message.assistant(ToolCall("c1", "look")),
                               Message.tool(Result("c1", "here", images=(Image.from_bytes(PNG),)))],
    "an empty text between": [Message.user("x"), Message.assistant(""), Message.user("y")],
}  # fmt: skip
OPTIONS: dict[str, TaskOptions] = {
    "none": {},
    "a role": {"role": "testing", "privacy": "sensitive", "priority": "batch", "budget": 0.25, "labels": {"a": "b"}},
    "the role as a model": {"model": "role:testing", "session": "s-1", "subject": "ann", "allow_cached": False},
    "sampling": {"model": "auto", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 7,
                 "presence_penalty": 1.5, "frequency_penalty": -1, "top_k": 5, "logit_bias": {"7": -3}},
    "json": {"json": True, "mode": "local", "kind": "review", "user": "bob", "preferred_provider": "groq"},
    "tools": {"tools": [look, Tool("stop", strict=True)], "tool_choice": "look", "parallel_tool_calls": False},
    "tools of others": {"tools": [{"type": "function", "function": {"name": "f", "description": "F",
                                   "parameters": {"type": "object"}, "strict": False}}], "tool_choice": "required"},
    "some of the tools": {"tools": [look, Tool("stop")], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "stop"}}]}}},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {
        "name": "r", "schema": {"type": "object"}, "strict": True, "description": "D"}}},
    "any json": {"response_format": {"type": "json_object"}, "n": 3, "logprobs": True, "top_logprobs": 4},
    "hints": {"reasoning_effort": "low", "verbosity": "high", "service_tier": "flex", "logprobs": True},
    "a time": {"deadline": datetime(2027, 1, 1, 12, tzinfo=UTC)},
    "seconds": {"deadline": 2.5, "stop": "a"},
}  # fmt: skip
NOW = 1_798_804_700_000


@pytest.mark.parametrize("asked", OPTIONS)
@pytest.mark.parametrize("said", PROMPTS)
def test_a_task_is_the_same_over_http_and_over_kafka(said: str, asked: str) -> None:
    prompt, options = PROMPTS[said], OPTIONS[asked]
    body = task_body(prompt, options, stream=False)
    draft = draft_of_task(parse_model(taken_task(body), TaskRequest))
    origin = drafts.Submitter(task_id="t", tenant="acme", key_id="k", now_ms=NOW, reply_partition=1)
    over_http = drafts.submission(draft, origin)
    over_kafka = TaskSubmitted(
        task_id="t", tenant="acme", user=options.get("user") or "", messages=conversation_events(prompt),
        submitted_at=NOW, key_id="k", reply_partition=1, **fields_of(options, NOW),
    )  # fmt: skip
    assert over_kafka == over_http
    assert record_key(over_kafka) == drafts.record_key(over_http)


@pytest.mark.parametrize("said", [name for name in PROMPTS if name not in ("objects", "parts as objects")])
def test_a_message_comes_back_as_it_went(said: str) -> None:
    prompt = PROMPTS[said]
    documents = documents_of(prompt)
    assert [document(message_of(one)) for one in documents] == documents
    for one in prompt if not isinstance(prompt, str | Message) else ():
        if isinstance(one, Message):
            assert message_of(document(one)) == one


def choice(*parts: MessagePart, **more: Any) -> AnswerChoice:
    return AnswerChoice(parts=parts, **more)


ENDS: dict[str, dict[str, Any]] = {
    "a text": {"answer": plain("Hello"), "finish_reason": "stop"},
    "a refusal": {"answer": plain("No."), "status": TaskStatus.REFUSED, "finish_reason": "refusal"},
    "nothing": {"status": TaskStatus.CANCELLED},
    "calls": {"answer": plain("I look."), "finish_reason": "tool_calls", "choices": (choice(
        MessagePart(kind=PartKind.REASONING, content=plain("Hm"), provider="anthropic", signature=plain("s")),
        MessagePart(kind=PartKind.TEXT, content=plain("I look.")),
        MessagePart(kind=PartKind.TOOL_CALL, content=plain('{"a": 1}'), call_id="c1", name="look"),
        finish_reason="tool_calls"),)},
    "several": {"answer": plain("one"), "choices": (
        choice(MessagePart(kind=PartKind.TEXT, content=plain("one")), index=0, finish_reason="stop",
               logprobs=plain('[{"token": "one", "logprob": -0.5}]')),
        choice(MessagePart(kind=PartKind.TEXT, content=plain("two")), index=1, finish_reason="length",
               citations=(Citation(url=plain("https://a.example"), title=plain("A"), start=1, end=2),))),
    },
    "sealed": {"answer": Content(cipher="k-1", data=b"\x01")},
    "sealed calls": {"choices": (choice(MessagePart(
        kind=PartKind.TOOL_CALL, content=Content(cipher="k-1", data=b"\x01"), call_id="c", name="f")),)},
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_the_same_over_http_and_over_kafka(name: str) -> None:
    fields: dict[str, Any] = {"status": TaskStatus.SUCCEEDED, **ENDS[name]}
    end = TaskCompleted(
        task_id="t", tenant="acme", role="testing", submitted_at=NOW, completed_at=NOW + 5, provider="groq", model="m",
        served_from=ServedFrom.ATTEMPT, cost_nanodollars=7, attempts=1, model_ms=1.5, **fields,
        usage=Usage(input_tokens=9, output_tokens=8, reasoning_tokens=7, image_tokens=6, audio_tokens=5, searches=4),
    )  # fmt: skip
    over_http = task_of(told(with_completion(None, end)))
    assert task_of_completion(end) == over_http
    assert (over_http.usage.reasoning_tokens, over_http.usage.image_tokens) == (7, 6)
    assert bool(over_http.choices) == (name not in ("nothing", "sealed", "sealed calls"))


def test_an_answer_is_read_with_everything_in_it() -> None:
    end = TaskCompleted(task_id="t", tenant="a", submitted_at=1, completed_at=2, status=TaskStatus.SUCCEEDED,
                        **ENDS["calls"])  # fmt: skip
    task = task_of_completion(end)
    assert task.message is not None
    assert (task.message.reasoning, task.message.text, task.message.refusal) == ("Hm", "I look.", None)
    assert [(call.id, call.name, call.parsed) for call in task.tool_calls] == [("c1", "look", {"a": 1})]


def test_an_earlier_intake_tells_only_the_text() -> None:
    task = task_of({"id": "t", "status": "succeeded", "answer": "Hello", "finish_reason": "stop"})
    assert [(one.message.text, one.finish_reason) for one in task.choices] == [("Hello", "stop")]
    assert task_of({"id": "t", "status": "refused", "answer": "No."}).choices[0].message.refusal == "No."


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ([], "at least one message"),
        ([{"content": "x"}], "a role and a content"),
        ([{"role": 5}], "a role and a content"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        documents_of(prompt)


@pytest.mark.parametrize(
    ("role", "parts"),
    [
        ("system", (Image.at("https://a.example"),)), ("user", (ToolCall("c", "f"),)), ("tool", (Text("x"),)),
        ("tool", (Result("a"), Result("b"))), ("assistant", (Result("c"),)), ("bot", ()),
    ],
)  # fmt: skip
def test_a_message_holds_only_what_its_role_can_say(role: Any, parts: Any) -> None:
    with pytest.raises(ValueError, match="message"):
        Message(role, parts)


def test_files_tell_what_they_are(tmp_path: Path) -> None:
    for name, data in (("a.png", PNG), ("wrong.jpg", PNG), ("none", PNG), ("b.webp", WEBP), ("c.svg", b"<svg/>")):
        (tmp_path / name).write_bytes(data)
    found = [Image.from_file(tmp_path / name).media_type for name in ("a.png", "wrong.jpg", "none", "b.webp", "c.svg")]
    assert found == ["image/png", "image/png", "image/png", "image/webp", "image/svg+xml"]
    (tmp_path / "a.txt").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("a.txt", "empty.png"):
        with pytest.raises(ValueError, match=name):
            Image.from_file(tmp_path / name)
    (tmp_path / "a.mp3").write_bytes(b"ID3")
    assert Audio.from_file(tmp_path / "a.mp3").media_type == "audio/mpeg"
    with pytest.raises(ValueError, match="neither a WAV"):
        Audio.from_file(tmp_path / "a.txt")
    assert File.from_file(tmp_path / "a.txt") == File(b"no image", "text/plain", "a.txt")
    with pytest.raises(ValueError, match="media type"):
        Image.from_bytes(b"what")
    with pytest.raises(ValueError, match="http"):
        Image.at("file:///etc/passwd")
