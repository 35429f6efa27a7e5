"""Parameters of one provider's API: from the body to the provider that is named, and to no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headrace_contracts.cargo import LARGEST_EXTRA
from headrace_contracts.codec import Codec
from headrace_contracts.content import text_of
from headrace_contracts.errors import Origin
from headrace_contracts.events import Place, TaskSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_SUBMITTED
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.drafts import Submitter, TaskDraft, refusal_of, submission
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, taken_task
from headrace_models import anthropic_requests, ollama_requests
from headrace_models.conversation import ChatMessage
from headrace_models.dialects import GENERIC, body_of
from headrace_models.ports import ChatRequest

ORIGIN = Submitter(task_id="t-1", tenant="acme", key_id="k1", now_ms=1_800_000_000_000, reply_partition=3)
PLACES = {"groq": Place.CLOUD, "anthropic": Place.CLOUD, "ollama": Place.LOCAL}
GROQ = {"provider_options": {"groq": {"citation_options": "enabled", "deep": {"a": [1, None]}}}}


def task(**body: Any) -> TaskDraft:
    return draft_of_task(TaskRequest.model_validate(taken_task({"prompt": "Hello", **body})))


def chat(**body: Any) -> TaskDraft:
    messages = [{"role": "user", "content": "Hello"}]
    return draft_of_chat(ChatCompletionRequest.model_validate(taken({"model": "auto", "messages": messages, **body})))


@pytest.mark.parametrize("make", [task, chat])
@pytest.mark.parametrize("named", [{"model": "groq/llama"}, {"preferred_provider": "groq"}])
async def test_they_are_in_the_record_for_the_named_provider(make: Any, named: dict[str, str]) -> None:
    draft = make(**named, **GROQ)
    assert refusal_of(draft, {}, PLACES) is None
    codec = Codec(MemoryRegistry())
    await codec.prepare([TASKS_SUBMITTED], register=True)
    written = codec.encode(TASKS_SUBMITTED, submission(draft, ORIGIN))
    read = await codec.read(TaskSubmitted, written, Origin("t", 0, 0))
    assert read.options is not None
    extra = {name: json.loads(text_of(value)) for name, value in read.options.extra.items()}
    assert extra == GROQ["provider_options"]["groq"]


@pytest.mark.parametrize("make", [task, chat])
@pytest.mark.parametrize(
    ("said", "param", "why"),
    [
        ({"model": "auto", **GROQ}, "provider_options.groq", "give a model"),
        ({"model": "role:tester", **GROQ}, "provider_options.groq", "give a model"),
        ({"model": "anthropic/claude", **GROQ}, "provider_options.groq", "give a model"),
        ({"model": "groqy/x", **GROQ}, "provider_options.groq", "give a model"),
        ({"model": "m", "provider_options": {"a b": {}}}, "provider_options", "give a model"),
        ({"model": "groq/x", "provider_options": {"groq": {"model": "y"}}}, "provider_options.groq.model", "passed on"),
        ({"model": "groq/x", "provider_options": {"groq": {"n": 9}}}, "provider_options.groq.n", "passed on"),
        ({"model": "groq/x", "provider_options": {"groq": {"": 1}}}, "provider_options.groq", "name"),
        ({"model": "groq/x", "provider_options": {"groq": {"a\nb": 1}}}, "provider_options.groq", "name"),
        ({"model": "g/x", "provider_options": {"g": {f"a{n}": 1 for n in range(65)}}}, "provider_options.g", "64"),
        ({"model": "g/x", "provider_options": {"g": {"a": "ä" * LARGEST_EXTRA}}}, "provider_options.g", "bytes"),
    ],
)
def test_what_nobody_would_get_is_refused(make: Any, said: dict[str, Any], param: str, why: str) -> None:
    with pytest.raises(Refusal, match=why) as refused:
        make(**said)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("wrong", [7, "x", [], {"groq": 1}, {"groq": []}, {"groq": {}, "anthropic": {}}])
def test_a_map_of_another_form_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="provider_options"):
        chat(model="groq/x", provider_options=wrong)


@pytest.mark.parametrize("named", [{"model": "nobody/x"}, {"preferred_provider": "nobody"}])
def test_a_provider_that_is_not_there_is_refused(named: dict[str, str]) -> None:
    refusal = refusal_of(chat(**named, provider_options={"nobody": {"a": 1}}), {}, PLACES)
    assert refusal is not None
    assert (refusal.status, refusal.param) == (400, "provider_options")


@pytest.mark.parametrize("make", [task, chat])
@pytest.mark.parametrize("name", ["guided_json", "min_p", "cache_prompt"])
def test_an_unknown_parameter_is_refused_with_the_way_to_pass_it_on(make: Any, name: str) -> None:
    with pytest.raises(Refusal, match="provider_options") as refused:
        make(**{name: 1})
    assert (refused.value.status, refused.value.param) == (400, name)


EXTRA = {"min_p": 0.1, "options": {"mirostat": 2, "num_predict": 7, "num_ctx": 1}, "model": "other", "max_tokens": 9}


def asked(model: str) -> ChatRequest:
    return ChatRequest(model, (ChatMessage("user", "hi"),), timeout_seconds=1, max_output_tokens=50, extra=EXTRA)


def test_each_client_passes_them_on_and_keeps_what_is_its_own() -> None:
    openai = body_of(asked("m"), GENERIC)
    assert (openai["min_p"], openai["model"]) == (0.1, "m")
    assert 9 not in openai.values()
    anthropic = anthropic_requests.body_of(asked("claude-sonnet-4-6"))
    assert (anthropic["extra_body"]["min_p"], anthropic["max_tokens"]) == (0.1, 50)
    assert anthropic["extra_body"].keys() == {"min_p", "options"}
    ollama = ollama_requests.body_of(asked("m"), None, keep_alive="5m")
    assert (ollama["min_p"], ollama["model"], ollama["options"]["mirostat"]) == (0.1, "m", 2)
    assert ollama["options"]["num_predict"] == 50
    assert ollama["options"]["num_ctx"] > 1
