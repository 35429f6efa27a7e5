"""From request bodies to the task event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import Lane, Mode, PartKind, Place, Privacy
from headrace_contracts.floors import Demands, Party
from headrace_contracts.ids import route_key
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.drafts import Submitter, TaskDraft, designation, record_key, refusal_of, submission
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, expect_object, parse_wait

ORIGIN = Submitter(task_id="t-1", tenant="acme", key_id="k1", now_ms=1_800_000_000_000, reply_partition=3)


def task(**body: Any) -> TaskDraft:
    return draft_of_task(TaskRequest.model_validate({"prompt": "Hello", **body}))


def chat(**body: Any) -> TaskDraft:
    messages = [{"role": "user", "content": "Hello"}]
    return draft_of_chat(ChatCompletionRequest.model_validate(taken({"model": "auto", "messages": messages, **body})))


def test_everything_a_caller_says_is_in_the_event() -> None:
    draft = task(
        model="groq/llama", kind="review", privacy="internal", priority="batch", mode="hybrid",
        preferred_provider="groq", budget=0.25, deadline=60, session="s", subject="p", user="u", labels={"team": "x"},
        stream=True, allow_cached=False, max_tokens=7, temperature=0.5, top_p=0.9, stop="END", seed=4, json=True,
    )  # fmt: skip
    event = submission(draft, ORIGIN)
    assert (event.task_id, event.tenant, event.key_id, event.reply_partition) == ("t-1", "acme", "k1", 3)
    assert (event.model, event.role, event.kind, event.user) == ("groq/llama", None, "review", "u")
    assert (event.privacy, event.lane, event.mode) == (Privacy.INTERNAL, Lane.BATCH, Mode.HYBRID)
    assert (event.preferred_provider, event.session, event.subject) == ("groq", "s", "p")
    assert (event.budget_nanodollars, event.deadline_at) == (250_000_000, ORIGIN.now_ms + 60_000)
    assert (event.stream, event.allow_cached, dict(event.labels)) == (True, False, {"team": "x"})
    sampling = event.sampling
    assert (sampling.max_output_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.9)
    assert (sampling.stop, sampling.seed, sampling.json) == (("END",), 4, True)
    assert event.submitted_at == ORIGIN.now_ms


def test_what_is_not_said_is_left_to_role_and_preferences() -> None:
    event = submission(task(), ORIGIN)
    assert (event.privacy, event.lane, event.mode, event.role, event.model) == (None, None, None, None, None)
    assert (event.budget_nanodollars, event.deadline_at, event.kind, event.allow_cached) == (None, None, "task", True)


def test_somebody_waits_for_a_chat_so_it_is_interactive_unless_told_otherwise() -> None:
    assert submission(chat(), ORIGIN).lane is Lane.INTERACTIVE
    assert submission(chat(priority="batch"), ORIGIN).lane is Lane.BATCH
    assert submission(chat(), ORIGIN).kind == "chat"


def test_messages_keep_roles_and_parts() -> None:
    draft = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "", "refusal": None, "tool_calls": None, "annotations": []},
        ]
    )
    said = [(message.role, text_of(message.content)) for message in draft.messages]
    assert said == [("system", "Be brief."), ("user", ""), ("assistant", "")]
    assert [(part.kind, text_of(part.content)) for part in draft.messages[1].parts if part.content is not None] == [
        (PartKind.TEXT, "one"), (PartKind.TEXT, "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "role", "expected"),
    [
        (None, None, (None, None)),
        ("auto", None, (None, None)),
        ("auto", "tester", ("tester", None)),
        ("role:tester", None, ("tester", None)),
        ("role:tester", "tester", ("tester", None)),
        ("groq/llama", None, (None, "groq/llama")),
        ("llama3:8b", None, (None, "llama3:8b")),
    ],
)
def test_a_model_may_stand_for_a_role(model: str | None, role: str | None, expected: tuple[Any, Any]) -> None:
    assert designation(model, role) == expected


@pytest.mark.parametrize(("model", "role"), [("llama", "tester"), ("role:a", "b"), ("role:", None)])
def test_two_answers_to_who_shall_do_it_are_refused(model: str, role: str | None) -> None:
    with pytest.raises(Refusal):
        designation(model, role)


@pytest.mark.parametrize("body", [{"messages": [{"role": "user", "content": "x"}]}, {"prompt": None}])
def test_a_task_has_either_prompt_or_messages(body: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        task(**body)
    assert refused.value.param == "messages"


def test_a_conversation_without_any_text_is_refused() -> None:
    with pytest.raises(Refusal):
        task(prompt=None, messages=[{"role": "user", "content": ""}])


def test_the_key_is_the_one_everybody_computes() -> None:
    event = submission(task(role="tester"), ORIGIN)
    expected = route_key(tenant="acme", session=None, role="tester", model=None, messages=[("user", b"Hello")])
    assert record_key(event) == expected.encode()
    assert record_key(submission(task(session="s7"), ORIGIN)) == b"s:acme/s7"


PLACES = {"anthropic": Place.CLOUD, "groq": Place.CLOUD, "ollama": Place.LOCAL}


@pytest.mark.parametrize(
    ("body", "param", "other"),
    [
        ({"privacy": "sensitive", "mode": "cloud"}, "mode", "privacy"),
        ({"privacy": "sensitive", "model": "anthropic/claude"}, "model", "privacy"),
        ({"privacy": "sensitive", "preferred_provider": "groq"}, "preferred_provider", "privacy"),
        ({"mode": "local", "model": "groq/llama"}, "model", "mode"),
        ({"mode": "local", "preferred_provider": "anthropic"}, "preferred_provider", "mode"),
        ({"mode": "cloud", "model": "ollama/phi3"}, "model", "mode"),
        ({"mode": "cloud", "preferred_provider": "ollama"}, "preferred_provider", "mode"),
        ({"model": "groq/llama", "preferred_provider": "anthropic"}, "preferred_provider", "model"),
        ({"model": "ollama/phi3", "preferred_provider": "groq"}, "preferred_provider", "model"),
    ],
)
@pytest.mark.parametrize("draft_of", [task, chat])
def test_a_request_that_contradicts_itself_is_refused_with_both_places(
    draft_of: Any, body: dict[str, Any], param: str, other: str
) -> None:
    refusal = refusal_of(draft_of(**body), {}, PLACES)
    assert refusal is not None
    assert (refusal.status, refusal.kind, refusal.param) == (400, "privacy-contradiction", param)
    assert f"`{param}`" in refusal.detail
    assert f"`{other}`" in refusal.detail


@pytest.mark.parametrize(
    "body",
    [
        {"privacy": "sensitive", "mode": "local"},
        {"privacy": "sensitive", "mode": "hybrid"},
        {"privacy": "sensitive", "model": "ollama/llama3:8b", "preferred_provider": "ollama"},
        {"privacy": "sensitive", "model": "anthropic"},
        {"privacy": "public", "mode": "cloud", "model": "anthropic/claude", "preferred_provider": "anthropic"},
        {"mode": "local", "model": "library/anthropic/claude"},
        {"mode": "cloud", "preferred_provider": "unheard-of"},
        {"mode": "cloud"},
        {"model": "groq/llama"},
        {"model": "ollama/phi3"},
    ],
)
def test_anything_else_is_for_the_router_to_decide(body: dict[str, Any]) -> None:
    assert refusal_of(task(**body), {}, PLACES) is None


@pytest.mark.parametrize("whose", [Party.TENANT, Party.USER])
@pytest.mark.parametrize(
    ("demanded", "body", "kind", "param"),
    [
        (Demands(Privacy.SENSITIVE), {"privacy": "public"}, "below-floor", "privacy"),
        (Demands(Privacy.SENSITIVE), {"privacy": "internal"}, "below-floor", "privacy"),
        (Demands(Privacy.INTERNAL), {"privacy": "public"}, "below-floor", "privacy"),
        (Demands(mode=Mode.LOCAL), {"mode": "cloud"}, "below-floor", "mode"),
        (Demands(mode=Mode.LOCAL), {"mode": "hybrid"}, "below-floor", "mode"),
        (Demands(mode=Mode.HYBRID), {"mode": "cloud"}, "below-floor", "mode"),
        (Demands(Privacy.SENSITIVE), {"mode": "cloud"}, "below-floor", "mode"),
        (Demands(Privacy.SENSITIVE), {"model": "groq/llama"}, "privacy", "model"),
        (Demands(mode=Mode.LOCAL), {"model": "groq/llama"}, "mode", "model"),
        (Demands(Privacy.INTERNAL), {"model": "groq/llama"}, "no-consent", "model"),
        (
            Demands(providers=frozenset({"groq"})),
            {"privacy": "internal", "model": "anthropic/c"},
            "no-consent",
            "model",
        ),
    ],
)
def test_a_request_for_less_than_is_demanded_is_refused_with_a_reason(
    whose: Party, demanded: Demands, body: dict[str, Any], kind: str, param: str
) -> None:
    refusal = refusal_of(task(**body), {whose: demanded}, PLACES)
    assert refusal is not None
    assert (refusal.status, refusal.kind, refusal.param) == (403, kind, param)
    if kind == "below-floor":
        assert str(whose) in refusal.detail


@pytest.mark.parametrize(
    ("demanded", "body"),
    [
        (Demands(Privacy.INTERNAL, Mode.HYBRID), {}),
        (Demands(Privacy.INTERNAL, Mode.HYBRID), {"privacy": "internal", "mode": "hybrid"}),
        (Demands(Privacy.INTERNAL, Mode.HYBRID), {"privacy": "sensitive", "mode": "local"}),
        (Demands(Privacy.INTERNAL, providers=frozenset({"groq"})), {"model": "groq/llama"}),
        (Demands(Privacy.SENSITIVE), {"model": "ollama/phi3", "mode": "hybrid"}),
        (Demands(Privacy.PUBLIC, Mode.CLOUD), {"privacy": "public", "mode": "cloud", "model": "groq/llama"}),
    ],
)
def test_what_is_demanded_and_more_may_be_asked_for(demanded: Demands, body: dict[str, Any]) -> None:
    assert refusal_of(task(**body), {Party.TENANT: demanded}, PLACES) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("modalities", ["audio"]),
        ("audio", {"voice": "v"}),
        ("web_search_options", {}),
        ("made_up", 1),
    ],
)
def test_a_parameter_that_would_be_ignored_is_named(name: str, value: object) -> None:
    with pytest.raises(Refusal) as refused:
        chat(**{name: value})
    assert (refused.value.status, refused.value.kind, refused.value.param) == (400, "unsupported-parameter", name)
    assert name in refused.value.detail


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", []), ("tools", None), ("n", 1), ("presence_penalty", 0.0), ("presence_penalty", 0), ("store", False),
     ("service_tier", "auto"), ("made_up", None), ("stream_options", {"include_usage": True}),
     ("response_format", {"type": "text"}), ("store", True), ("safety_identifier", "x"), ("prompt_cache_key", "k"),
     ("parallel_tool_calls", True), ("tool_choice", "auto"), ("tool_choice", "none"), ("functions", [])],
)  # fmt: skip
def test_a_parameter_that_asks_for_what_happens_anyway_is_taken(name: str, value: object) -> None:
    assert text_of(chat(**{name: value}).messages[0].content) == "Hello"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "x", "weight": 1}, "messages.0.weight"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "messages.0.function_call"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "video_url"}]},
            "messages.0.content.1.type",
        ),
    ],
)
def test_so_is_what_a_message_would_lose(message: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        chat(messages=[message])
    assert (refused.value.kind, refused.value.param) == ("unsupported-parameter", param)


@pytest.mark.parametrize(
    ("form", "as_json", "strict"),
    [
        ({"type": "text"}, False, None),
        ({"type": "json_object"}, True, None),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, True, False),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True}},
            True,
            True,
        ),
    ],
)
def test_an_answer_can_have_a_form(form: dict[str, Any], as_json: bool, strict: bool | None) -> None:
    event = submission(chat(response_format=form), ORIGIN)
    assert event.sampling.json is as_json
    found = None if event.options is None else event.options.response_format
    assert (None if found is None else found.strict) is strict
    if found is not None:
        assert found.schema is not None
        assert json.loads(found.schema.data) == form["json_schema"]["schema"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"}, {"type": 7}, {"properties": []}, {"$ref": "https://example.com/schema"},
        {"properties": {"a": {"$ref": "other.json"}}}, {"minItems": -1},
    ],
)  # fmt: skip
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert refused.value.param == "response_format.json_schema.schema"
    with pytest.raises(Refusal) as refused:
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert refused.value.param == "tools.0.function.parameters"


F, G = ({"type": "function", "function": {"name": name}} for name in ("f", "g"))


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("auto", "auto", ()),
        ("none", "none", ()),
        ("required", "required", ()),
        ({"type": "function", "function": {"name": "g"}}, "required", ("g",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F]}}, "auto", ("f",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [F, G]}}, "required", ("f", "g")),
    ],
)
def test_a_tool_choice_is_taken(choice: object, mode: str, names: tuple[str, ...]) -> None:
    options = submission(chat(tools=[F, G], tool_choice=choice), ORIGIN).options
    assert options is not None
    assert options.tool_choice is not None
    assert (options.tool_choice.mode.value, options.tool_choice.names) == (mode, names)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [F, F]}, "tools"),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_what_does_not_go_together_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        chat(**body)
    assert refused.value.param == param


def test_plain_chats_ask_for_nothing_more() -> None:
    assert submission(chat(temperature=0.5, n=1, presence_penalty=0, tools=[], logprobs=False), ORIGIN).options is None


def test_max_completion_tokens_is_the_newer_name_of_max_tokens() -> None:
    assert submission(chat(max_completion_tokens=5), ORIGIN).sampling.max_output_tokens == 5
    assert submission(chat(max_tokens=5, max_completion_tokens=5), ORIGIN).sampling.max_output_tokens == 5
    with pytest.raises(Refusal):
        chat(max_tokens=4, max_completion_tokens=5)


def test_metadata_become_labels() -> None:
    assert submission(chat(metadata={"team": "x"}), ORIGIN).labels == {"team": "x"}


@pytest.mark.parametrize("document", [None, [], "text", 1])
def test_a_body_that_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(Refusal):
        expect_object(document)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ([], None),
        (["wait=10"], 10.0),
        (["respond-async, wait=5"], 5.0),
        (["respond-async", 'Wait="7"; foo'], 7.0),
        (["wait=1000"], 300.0),
        (["wait=0"], 0.0),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["wait"], None),
    ],
)
def test_prefer_wait(headers: list[str], wait: float | None) -> None:
    assert parse_wait(headers, 300.0) == wait
