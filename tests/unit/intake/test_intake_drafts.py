"""From request bodies to the task event."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import Lane, Mode, Privacy
from headrace_contracts.ids import route_key
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.drafts import Submitter, TaskDraft, contradiction, designation, record_key, submission
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


def test_messages_keep_roles_and_parts_become_lines() -> None:
    draft = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "", "refusal": None, "tool_calls": None, "annotations": []},
        ]
    )
    said = [(message.role, text_of(message.content)) for message in draft.messages]
    assert said == [("system", "Be brief."), ("user", "one\ntwo"), ("assistant", "")]


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


@pytest.mark.parametrize(
    ("body", "param"),
    [({"mode": "cloud"}, "mode"), ({"model": "anthropic/claude"}, "model")],
)
def test_sensitive_content_that_asks_for_the_cloud_is_a_contradiction(body: dict[str, Any], param: str) -> None:
    refusal = contradiction(task(privacy="sensitive", **body), {"anthropic", "groq"})
    assert refusal is not None
    assert (refusal.kind, refusal.param) == ("privacy-contradiction", param)


@pytest.mark.parametrize(
    "body",
    [
        {"privacy": "sensitive", "mode": "local"},
        {"privacy": "sensitive", "mode": "hybrid"},
        {"privacy": "sensitive", "model": "ollama/llama3:8b"},
        {"privacy": "sensitive", "model": "anthropic"},
        {"privacy": "public", "mode": "cloud", "model": "anthropic/claude"},
        {"mode": "cloud"},
    ],
)
def test_anything_else_is_for_the_router_to_decide(body: dict[str, Any]) -> None:
    assert contradiction(task(**body), {"anthropic", "groq"}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("presence_penalty", 0.5),
        ("store", True),
        ("reasoning_effort", "high"),
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
     ("response_format", {"type": "text"})],
)  # fmt: skip
def test_a_parameter_that_asks_for_what_happens_anyway_is_taken(name: str, value: object) -> None:
    assert text_of(chat(**{name: value}).messages[0].content) == "Hello"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "messages.0.tool_calls"),
        ({"role": "user", "content": "x", "name": "ann"}, "messages.0.name"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
            "messages.0.content.1.type",
        ),
    ],
)
def test_so_is_what_a_message_would_lose(message: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        chat(messages=[message])
    assert (refused.value.kind, refused.value.param) == ("unsupported-parameter", param)


def test_json_schema_is_named_as_unsupported_and_json_object_is_taken() -> None:
    with pytest.raises(Refusal) as refused:
        chat(response_format={"type": "json_schema", "json_schema": {}})
    assert refused.value.param == "response_format"
    assert chat(response_format={"type": "json_object"}).json


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
