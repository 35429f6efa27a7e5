"""Anthropic's requests as tasks, and what of them is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from headrace_contracts.cargo import message_objections, options_objections
from headrace_contracts.content import text_of
from headrace_contracts.events import Message, MessagePart, PartKind, ToolChoiceMode
from headrace_intake.decide.anthropic.counting import estimated_tokens
from headrace_intake.decide.anthropic.request import MessagesRequest, conversation, draft_of_messages, options_of, taken
from headrace_intake.decide.anthropic.thoughts import inward, outward
from headrace_intake.decide.drafts import Submitter, TaskDraft, submission
from headrace_intake.decide.refusals import Refusal
from pydantic import ValidationError

ORIGIN = Submitter(task_id="t-1", tenant="acme", key_id="k1", now_ms=1_800_000_000_000, reply_partition=3)
PNG = base64.b64encode(b"\x89PNG\r\n").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
MARK, LONG_MARK = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "f", "description": "does it", "input_schema": {"type": "object", "properties": {"a": {}}}}


def draft(**body: Any) -> TaskDraft:
    asked = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}], **body}
    made = draft_of_messages(MessagesRequest.model_validate(taken(asked)))
    for message in made.messages:
        assert list(message_objections(message)) == [], "a task from here must be one that the router admits"
    assert made.asked is None or list(options_objections(made.asked)) == []
    return made


def said(*content: Any, role: str = "user") -> tuple[Message, ...]:
    return draft(messages=[{"role": role, "content": list(content)}, {"role": "user", "content": "x"}]).messages[:-1]


def part(message: Message) -> MessagePart:
    (only,) = message.parts
    return only


def test_everything_a_caller_says_is_in_the_task() -> None:
    made = draft(
        model="anthropic/claude-sonnet-4-6", system="Be kind", temperature=0.5, top_p=0.9, top_k=5,
        stop_sequences=["END"], metadata={"user_id": "ann"}, service_tier="standard_only", stream=True,
        budget=0.5, session="s",
        provider_options={"anthropic": {"inference_hint": 1}},
    )  # fmt: skip
    task = submission(made, ORIGIN)
    assert [(message.role, text_of(message.content)) for message in task.messages] == [
        ("system", "Be kind"), ("user", "Hello"),
    ]  # fmt: skip
    sampling = task.sampling
    assert (sampling.max_output_tokens, sampling.temperature, sampling.top_p, sampling.stop) == (
        100,
        0.5,
        0.9,
        ("END",),
    )
    assert (task.user, task.session, task.budget_nanodollars, task.stream) == ("ann", "s", 500_000_000, True)
    assert task.options is not None
    assert (task.options.top_k, task.options.service_tier) == (5, "standard_only")
    assert list(task.options.extra) == ["inference_hint"]
    assert not task.allow_cached
    assert draft().asked is None
    assert draft(temperature=0).allow_cached


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (IMAGE, (PartKind.IMAGE, "image/png", None)),
        ({"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}, (PartKind.IMAGE, None, None)),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
         (PartKind.FILE, "application/pdf", None)),
        ({"type": "document", "title": "T", "source": {"type": "url", "url": "https://a.example/x.pdf"}},
         (PartKind.FILE, None, "T")),
    ],
)  # fmt: skip
def test_images_and_documents(block: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (message,) = said(block)
    only = part(message)
    assert (only.kind, only.media_type, only.filename and text_of(only.filename)) == expected
    assert (only.url is None) == (only.content is not None)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "long"}, "T\n\nlong"),
        ({"type": "content", "content": "long"}, "T\n\nlong"),
        ({"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "T\n\na\nb"),
    ],
)
def test_a_document_that_is_text_is_text(source: dict[str, Any], text: str) -> None:
    (message,) = said({"type": "document", "title": "T", "context": "About:", "source": source})
    assert [text_of(each.content) for each in message.parts if each.content] == ["About:", text]


def test_a_tool_loop_is_a_message_for_each_result() -> None:
    calls = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {"a": n}, "caller": None} for n in range(2)]
    results = [
        {"type": "text", "text": "Look:", "citations": None},
        {"type": "tool_result", "tool_use_id": "c0", "content": "one", "cache_control": LONG_MARK},
        {"type": "tool_result", "tool_use_id": "c1", "is_error": True,
         "content": [{"type": "text", "text": "two"}, IMAGE, {"type": "text", "text": "three"}]},
    ]  # fmt: skip
    messages = draft(
        messages=[
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": [{"type": "text", "text": "Well"}, *calls]},
            {"role": "user", "content": results},
        ],
        tools=[TOOL],
    ).messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    text, *called = messages[1].parts
    assert text.kind is PartKind.TEXT
    assert [(each.call_id, each.name, json.loads(text_of(each.content))) for each in called if each.content] == [
        ("c0", "f", {"a": 0}), ("c1", "f", {"a": 1}),
    ]  # fmt: skip
    assert (part(messages[2]).call_id, part(messages[2]).cache_seconds, part(messages[2]).is_error) == (
        "c0",
        3_600,
        False,
    )
    result, image = messages[3].parts
    assert result.content is not None
    assert (result.kind, result.is_error, text_of(result.content)) == (PartKind.TOOL_RESULT, True, "two\nthree")
    assert (image.kind, image.call_id) == (PartKind.IMAGE, "c1")
    assert text_of(messages[4].content) == "Look:"


@pytest.mark.parametrize(
    ("block", "provider", "text", "signature"),
    [
        ({"type": "thinking", "thinking": "hm", "signature": "sig=="}, "anthropic", "hm", "sig=="),
        ({"type": "thinking", "thinking": "", "signature": "sig=="}, "anthropic", "", "sig=="),
        ({"type": "thinking", "thinking": "hm", "signature": "headrace:ollama:"}, "ollama", "hm", None),
        ({"type": "thinking", "thinking": "hm", "signature": "headrace:groq:a:b"}, "groq", "hm", "a:b"),
        ({"type": "redacted_thinking", "data": "all"}, "anthropic", None, "all"),
    ],
)
def test_thoughts_know_who_made_them(
    block: dict[str, Any], provider: str, text: str | None, signature: str | None
) -> None:
    (message,) = said(block, role="assistant")
    thought = part(message)
    assert (thought.kind, thought.provider) == (PartKind.REASONING, provider)
    assert (thought.content and text_of(thought.content)) == text
    assert (thought.signature and text_of(thought.signature)) == signature


@pytest.mark.parametrize("signature", ["", "s", "a:b:c", "headrace:x"])
@pytest.mark.parametrize("provider", ["anthropic", "groq", "my-vllm"])
def test_a_signature_comes_back_as_it_went_out(provider: str, signature: str) -> None:
    assert inward(outward(provider, signature)) == (provider, signature)


def test_marks_are_kept_wherever_they_are() -> None:
    made = draft(
        system=[{"type": "text", "text": "a", "cache_control": MARK}, {"type": "text", "text": "b"}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": LONG_MARK}, IMAGE]}],
        tools=[{**TOOL, "cache_control": LONG_MARK}],
        cache_control=MARK,
    )
    system, user = made.messages
    assert [each.cache_seconds for each in system.parts] == [300, None]
    assert [each.cache_seconds for each in user.parts] == [3_600, 300]
    assert made.asked is not None
    assert made.asked.tools[0].cache_seconds == 3_600
    (plain_text,) = draft(cache_control=LONG_MARK).messages
    assert part(plain_text).cache_seconds == 3_600


@pytest.mark.parametrize(
    ("choice", "mode", "names", "parallel"),
    [
        (None, None, None, None),
        ({"type": "auto"}, "auto", (), None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", (), False),
        ({"type": "tool", "name": "f"}, "required", ("f",), None),
        ({"type": "none"}, "none", (), None),
    ],
)
def test_tools_and_their_choice(choice: Any, mode: str | None, names: Any, parallel: bool | None) -> None:
    strict = {**TOOL, "name": "g", "strict": True, "type": "custom", "input_examples": [{"a": 1}],
              "eager_input_streaming": True, "defer_loading": False, "allowed_callers": ["direct"]}  # fmt: skip
    asked = draft(tools=[TOOL, strict], tool_choice=choice).asked
    assert asked is not None
    f, g = asked.tools
    assert (f.name, f.strict, g.strict, f.description and text_of(f.description)) == ("f", None, True, "does it")
    assert f.parameters is not None
    assert json.loads(text_of(f.parameters)) == TOOL["input_schema"]
    assert g.description is not None
    assert '{"a": 1}' in text_of(g.description)
    found = asked.tool_choice
    assert (found and (found.mode, found.names)) == (mode and (ToolChoiceMode(mode), names))
    assert asked.parallel_tool_calls is parallel


@pytest.mark.parametrize(
    ("said", "effort", "budget"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, None, 2_000),
        ({"thinking": {"type": "adaptive"}}, "high", None),
        ({"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}}, "low", None),
        ({"thinking": {"type": "disabled"}}, None, 0),
        ({"output_config": {"effort": "max"}}, "max", None),
    ],
)
def test_thinking(said: dict[str, Any], effort: str | None, budget: int | None) -> None:
    asked = draft(max_tokens=4_000, **said).asked
    assert asked is not None
    assert (asked.reasoning_effort, asked.reasoning_tokens) == (effort, budget)


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_a_schema_is_strict(where: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    asked = draft(**{where: {"format": form} if where == "output_config" else form}).asked
    assert asked is not None
    assert asked.response_format is not None
    assert asked.response_format.strict


@pytest.mark.parametrize("user", ["u" * 256, json.dumps({"device": "d" * 300})])
def test_a_long_user_id_is_a_user_all_the_same(user: str) -> None:
    first, second = draft(metadata={"user_id": user}), draft(metadata={"user_id": user + "x"})
    assert 0 < len(first.options.user or "") <= 200
    assert first.options.user != second.options.user
    assert draft(metadata={"user_id": user}).options.user == first.options.user
    assert draft(metadata={"user_id": user}, user="ann").options.user == "ann"


def test_what_changes_nothing_is_taken() -> None:
    made = draft(
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, diagnostics={},
        mcp_servers=[], speed="standard", thinking=None, tools=None, tool_choice=None, system=None,
        container=None, cache_control=None,
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": None, "citations": []}]}],
    )  # fmt: skip
    assert made.asked is None
    assert text_of(made.messages[0].content) == "x"


def block(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [content]}, {"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL, {"type": "bash_20250124", "name": "bash"}]}, "tools.1.type"),
        ({"tools": [{"type": "computer_20250124", "name": "c", "display_width_px": 1}]}, "tools.0.type"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"max_tokens": None}, "max_tokens"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "input_schema": {"type": "nothing"}}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}, "max_tokens": 2_000}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2_000}}, "thinking.budget_tokens"),
        ({"stop_sequences": ["a"], "stop": "b"}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 7}}}}, "output_config.format.schema"),
        (block({"type": "web_search_tool_result"}, "assistant"), "messages.0.content.0.type"),
        (block({"type": "server_tool_use"}, "assistant"), "messages.0.content.0.type"),
        (block({"type": "search_result"}), "messages.0.content.0.type"),
        (block({"type": "thinking", "thinking": "x", "signature": "s"}), "messages.0.content.0.type"),
        (block(IMAGE, "assistant"), "messages.0.content.0.type"),
        (block({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages.0.content.0.source.type"),
        (block({"type": "document", "citations": {"enabled": True},
                "source": {"type": "text", "media_type": "text/plain", "data": "x"}}),
         "messages.0.content.0.citations.enabled"),
        (block({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "search_result"}]}),
         "messages.0.content.0.content.0.type"),
        (block({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}), "messages"),
        (block({"type": "image", "source": {"type": "base64", "media_type": "text/html", "data": PNG}}), "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2_049}, "messages"),
        ({"model": "llama", "role": "tester"}, "role"),
        ({"provider_options": {"groq": {"a": 1}}}, "provider_options.groq"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        draft(**body)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param.partition(".")[0] in refused.value.detail


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "x"}, {"messages": []}, {"messages": [7]}, {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": ["user"], "content": [{"type": "text", "text": "x"}]}]},
        block({"type": "text"}), block({"type": ["text"]}), block("x"), block({"type": "tool_result"}), {"system": 7},
        {"tools": {}}, {"tools": [7]}, {"tool_choice": "auto"}, {"thinking": {"type": "between_tools"}},
        block({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "2h"}}),
        {"top_k": 0}, {"stop_sequences": [""]}, {"max_tokens": 0}, {"service_tier": "fast"},
        {"metadata": {"user": "x"}},
        block({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}),
        block({"type": "image", "source": "x"}), block({"type": "document", "source": None}),
    ],
)  # fmt: skip
def test_what_is_malformed_is_invalid(body: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, Refusal)):
        draft(**body)


def test_a_count_grows_with_what_is_sent() -> None:
    def count(**body: Any) -> int:
        asked = MessagesRequest.model_validate(taken({"model": "auto", **body}))
        return estimated_tokens(conversation(asked), options_of(asked, asked.model))

    short = count(messages=[{"role": "user", "content": "Hello there, how are you?"}])
    assert 6 <= short <= 14
    assert count(messages=[{"role": "user", "content": "word " * 1_000}]) in range(1_000, 1_500)
    assert count(messages=[{"role": "user", "content": [IMAGE]}]) > 1_500
    hello = [{"role": "user", "content": "Hello there, how are you?"}]
    assert count(messages=hello, tools=[TOOL]) > short + 10
    assert count(messages=hello, system="Be kind. " * 10) > short + 15
