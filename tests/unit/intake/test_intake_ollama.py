"""Ollama's API in the terms of the events, and back."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    AnswerChoice,
    Lane,
    MessagePart,
    ModelOperation,
    ModelStatus,
    NodeStatus,
    PartKind,
    Place,
    ResponseFormatKind,
    Usage,
)
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.ollama.answers import OllamaAnswer
from headrace_intake.decide.ollama.models import FleetModel, description, listed, offered_models, requested, running
from headrace_intake.decide.ollama.requests import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    draft_of_generate,
    draft_of_ollama_chat,
    draft_of_ollama_embed,
    taken_ollama,
)
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.views import TaskView
from pydantic import ValidationError

NOW = 1_800_000_000_000
HELLO: Any = [{"role": "user", "content": "Hello"}]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(9)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff" + bytes(9)).decode()
WEBP = base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 ").decode()


def node(name: str = "n1", provider: str = "ollama", *models: ModelStatus, **fields: Any) -> NodeStatus:
    place = Place.LOCAL if provider == "ollama" else Place.CLOUD
    return NodeStatus(
        **{
            "node": name, "place": place, "provider": provider, "healthy": True, "models": models, "reported_at": NOW,
            "valid_for_ms": 15_000, **fields,
        }
    )  # fmt: skip


LLAMA = ModelStatus(
    name="llama3.2:3b", size_bytes=2_000, context_tokens=8_192, capabilities=("tools", "json_schema", "logprobs"),
    details={"digest": "abc123", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M",
             "format": "gguf", "modified_at": "2026-01-02T03:04:05Z"},
)  # fmt: skip
FLEET = offered_models(
    [
        node("n1", "ollama", LLAMA, ModelStatus(name="gemma2:latest")),
        node("n2", "ollama", replace(LLAMA, loaded=True), ModelStatus(name="nomic:v1", capabilities=("embeddings",))),
        node("groq", "groq", ModelStatus(name="openai/gpt-oss-20b", capabilities=("tools", "reasoning"))),
        node("sick", "ollama", ModelStatus(name="gone"), healthy=False),
        node("old", "ollama", ModelStatus(name="stale"), reported_at=NOW - 15_001),
    ],
    NOW,
)


def chat(**body: Any) -> TaskDraft:
    taken = taken_ollama({"model": "llama3.2:3b", "messages": HELLO, **body}, OllamaChatRequest)
    return draft_of_ollama_chat(OllamaChatRequest.model_validate(taken), taken, FLEET)


def generate(**body: Any) -> TaskDraft:
    taken = taken_ollama({"model": "llama3.2:3b", "prompt": "Hello", **body}, OllamaGenerateRequest)
    return draft_of_generate(OllamaGenerateRequest.model_validate(taken), taken, FLEET)


def embed(**body: Any) -> TaskDraft:
    taken = taken_ollama({"model": "nomic:v1", "input": "Hello", **body}, OllamaEmbedRequest)
    return draft_of_ollama_embed(OllamaEmbedRequest.model_validate(taken), taken, FLEET)


def kinds(draft: TaskDraft, place: int = 0) -> list[PartKind]:
    return [part.kind for part in draft.messages[place].parts]


@pytest.mark.parametrize(
    ("name", "model", "role"),
    [
        ("llama3.2:3b", "ollama/llama3.2:3b", None),
        ("gemma2", "ollama/gemma2:latest", None),
        ("gemma2:latest", "ollama/gemma2:latest", None),
        ("ollama/gemma2", "ollama/gemma2:latest", None),
        ("llama3.2", "llama3.2", None),
        ("groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-20b", None),
        ("stale", "stale", None),
        ("auto", None, None),
        ("auto:latest", None, None),
        ("role:code_reviewer", None, "code_reviewer"),
    ],
)
def test_names_mean_what_they_mean_to_ollama(name: str, model: str | None, role: str | None) -> None:
    draft = chat(model=name)
    assert (draft.model, draft.role) == (model, role)
    assert requested(name, {}) in (name, name.removesuffix(":latest"))


def test_options_are_carried() -> None:
    draft = chat(
        options={
            "num_predict": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 3, "stop": ["END", "x"],
            "presence_penalty": 0.5, "frequency_penalty": -0.5, "num_ctx": 8192, "num_gpu": 1, "use_mmap": True,
        },
        keep_alive="5m", truncate=True, shift=False, stream=False, privacy="internal", budget=0.5,
        format={"type": "object"}, think="high", logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert (draft.options.max_tokens, draft.options.temperature, draft.options.top_p) == (7, 0.5, 0.9)
    assert (draft.options.seed, draft.options.stop, draft.options.stream) == (3, ["END", "x"], False)
    assert (draft.options.privacy, str(draft.options.budget), draft.lane) == ("internal", "0.5", Lane.INTERACTIVE)
    assert draft.asked is not None
    assert (draft.asked.top_k, draft.asked.presence_penalty, draft.asked.frequency_penalty) == (40, 0.5, -0.5)
    assert (draft.asked.reasoning_effort, draft.asked.top_logprobs, draft.asked.extra) == (
        "high", 2, {"options": plain('{"num_ctx": 8192}')},
    )  # fmt: skip
    assert draft.asked.response_format is not None
    assert draft.asked.response_format.kind is ResponseFormatKind.JSON_SCHEMA
    assert draft.json


@pytest.mark.parametrize(
    "options",
    [{}, {"num_predict": -1}, {"num_predict": -2}, {"seed": -1, "top_k": 0}, {"num_thread": 8},
     {"stop": []}, {"presence_penalty": 0, "frequency_penalty": 0.0}, {"temperature": None}],
)  # fmt: skip
def test_what_asks_for_nothing_is_nothing(options: dict[str, Any]) -> None:
    draft = chat(options=options)
    assert draft.asked is None
    plain_options = chat().options
    assert draft.options == plain_options
    assert plain_options.stream, "streams unless told otherwise"


@pytest.mark.parametrize(
    ("options", "model", "extra"),
    [
        ({"repeat_penalty": 1.3}, "llama3.2:3b", {"repeat_penalty": 1.3}),
        ({"min_p": 0.1, "mirostat": 2}, "llama3.2:3b", {"min_p": 0.1, "mirostat": 2}),
        ({"repeat_penalty": 1.1}, "groq/openai/gpt-oss-20b", {}),
        ({"repeat_penalty": 1.0, "repeat_last_n": 64}, "auto", {}),
        ({"repeat_penalty": 1.3}, "groq/openai/gpt-oss-20b", None),
        ({"mirostat": 1}, "auto", None),
    ],
)
def test_what_only_ollama_has_goes_to_its_nodes(
    options: dict[str, Any], model: str, extra: dict[str, Any] | None
) -> None:
    if extra is None:
        with pytest.raises(Refusal, match="options"):
            chat(model=model, options=options)
        return
    draft = chat(model=model, options=options)
    found = {} if draft.asked is None else {name: text_of(value) for name, value in draft.asked.extra.items()}
    assert found == ({"options": json.dumps(extra)} if extra else {})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"options": {"temperature": "hot"}}, "options"),
        ({"options": {"temperature": 9}}, "options"),
        ({"options": {"num_predict": 0}}, "options"),
        ({"options": []}, "options"),
        ({"best_of": 2}, "best_of"),
        ({"format": "xml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"format": {"type": 7}}, "format"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}, "messages.0.images.0"),
        ({"messages": [{"role": "user", "content": "x", "images": ["no base64!"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises((Refusal, ValidationError)) as caught:
        chat(**body)
    if isinstance(caught.value, Refusal):
        assert (caught.value.param or "").startswith(param)
    else:
        assert isinstance(caught.value, ValidationError)
        assert str(caught.value.errors()[0]["loc"][0]) == param


@pytest.mark.parametrize(
    "body", [{"template": "{{ .Prompt }}"}, {"raw": True}, {"suffix": "end"}, {"context": [1, 2]}, {"width": 512}]
)
def test_what_no_chat_model_takes_is_refused(body: dict[str, Any]) -> None:
    (name,) = body
    with pytest.raises(Refusal) as caught:
        generate(**body)
    assert caught.value.param == name
    assert generate(**dict.fromkeys(body)).messages
    assert generate(template="", raw=False, suffix="", context=[]).messages


@pytest.mark.parametrize(
    ("think", "effort", "tokens"),
    [(True, "medium", None), (False, None, 0), ("low", "low", None), ("high", "high", None), (None, None, None)],
)
def test_thinking(think: Any, effort: str | None, tokens: int | None) -> None:
    asked = chat(think=think).asked
    assert (None, None) if asked is None else (asked.reasoning_effort, asked.reasoning_tokens) == (effort, tokens)
    assert (asked is None) is (think is None)


@pytest.mark.parametrize("form", [None, "", "json", {"type": "object", "properties": {"a": {"type": "string"}}}, {}])
def test_forms_of_answers(form: Any) -> None:
    draft = chat(format=form)
    assert draft.json is (form not in (None, ""))
    has_schema = draft.asked is not None and draft.asked.response_format is not None
    assert has_schema is (isinstance(form, dict) and bool(form))


@pytest.mark.parametrize("image", [PNG, JPEG, WEBP, f"data:image/png;base64,{PNG}"])
def test_images_have_the_type_that_their_bytes_have(image: str) -> None:
    draft = chat(messages=[{"role": "user", "content": "Look", "images": [image]}])
    assert kinds(draft) == [PartKind.TEXT, PartKind.IMAGE]
    seen = draft.messages[0].parts[1]
    assert seen.media_type in ("image/png", "image/jpeg", "image/webp")
    assert kinds(generate(images=[image])) == [PartKind.TEXT, PartKind.IMAGE]


CALLS = [
    {"function": {"name": "weather", "arguments": {"city": "Lisbon"}}},
    {"function": {"name": "clock", "arguments": {}}},
    {"function": {"name": "weather", "arguments": {"city": "Paris"}}},
]


@pytest.mark.parametrize(
    ("results", "answers"),
    [
        ([{"tool_name": "weather"}, {"tool_name": "clock"}, {"tool_name": "weather"}], [0, 1, 2]),
        ([{"tool_name": "clock"}, {"tool_name": "weather"}, {"tool_name": "weather"}], [1, 0, 2]),
        ([{}, {}, {}], [0, 1, 2]),
        ([{"name": "clock"}, {}], [1, 0]),
        ([{"tool_name": "other"}, {"tool_name": "clock"}], [None, 1]),
        ([{}, {}, {}, {}], [0, 1, 2, None]),
    ],
)
def test_results_find_the_calls_that_they_answer(results: list[dict[str, Any]], answers: list[int | None]) -> None:
    said = [{"role": "tool", "content": f"result {place}", **result} for place, result in enumerate(results)]
    draft = chat(messages=[*HELLO, {"role": "assistant", "content": "", "tool_calls": CALLS}, *said])
    made = [part.call_id for part in draft.messages[1].parts]
    assert len(set(made)) == 3
    found = [message.parts[0].call_id if message.parts else None for message in draft.messages[2:]]
    assert found == [None if place is None else made[place] for place in answers]
    assert all(text_of(m.parts[0].content if m.parts and m.parts[0].content else m.content) for m in draft.messages[2:])


def test_ids_that_are_sent_back_are_kept() -> None:
    calls = [{"id": "a", **CALLS[0]}, {"id": "b", **CALLS[2]}]
    results = [
        {"role": "tool", "content": "x", "tool_call_id": "b"},
        {"role": "tool", "content": "y", "tool_call_id": "a"},
    ]
    draft = chat(
        messages=[*HELLO, {"role": "assistant", "tool_calls": calls, "thinking": "hm", "content": None}, *results]
    )
    assert kinds(draft, 1) == [PartKind.REASONING, PartKind.TOOL_CALL, PartKind.TOOL_CALL]
    assert [message.parts[0].call_id for message in draft.messages[2:]] == ["b", "a"]


def test_a_prompt_and_a_system_text_are_messages() -> None:
    draft = generate(system="Be short.", options={"seed": 1})
    assert [(m.role, text_of(m.content)) for m in draft.messages] == [("system", "Be short."), ("user", "Hello")]
    assert (draft.kind, draft.allow_cached) == ("completion", True)
    assert not generate().allow_cached
    assert chat(options={"temperature": 0}).allow_cached


@pytest.mark.parametrize("given", ["Hello", ["Hello"], ["Hello", "there"]])
def test_texts_to_make_vectors_of(given: Any) -> None:
    draft = embed(input=given, dimensions=8, truncate=True, options={"num_ctx": 2048})
    assert (draft.operation, draft.model, draft.messages) == (ModelOperation.EMBED, "ollama/nomic:v1", ())
    assert draft.asked is not None
    assert [text_of(one) for one in draft.asked.inputs] == ([given] if isinstance(given, str) else given)
    assert (draft.asked.dimensions, draft.lane) == (8, Lane.INTERACTIVE)


@pytest.mark.parametrize(
    "body",
    [
        {"input": ["a", ""]},
        {"options": {"nothing": 1}},
        {"stream": False},
        {"input": ["x"] * 1_000, "dimensions": 4_096},
    ],
)
def test_vectors_that_cannot_be_made_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        embed(**body)


def test_the_older_form_has_one_text() -> None:
    taken = taken_ollama({"model": "nomic:v1", "prompt": "Hello", "keep_alive": 0}, OllamaEmbeddingsRequest)
    draft = draft_of_ollama_embed(OllamaEmbeddingsRequest.model_validate(taken), taken, FLEET)
    assert draft.asked is not None
    assert [text_of(one) for one in draft.asked.inputs] == ["Hello"]


def test_the_fleet_is_listed_as_one_server() -> None:
    models = {model["name"]: model for model in listed(FLEET)}
    assert list(models) == ["llama3.2:3b", "gemma2:latest", "nomic:v1", "groq/openai/gpt-oss-20b"]
    llama = models["llama3.2:3b"]
    assert (llama["model"], llama["size"], llama["digest"]) == ("llama3.2:3b", 2_000, "abc123")
    assert llama["details"]["parameter_size"] == "3.2B"
    assert llama["modified_at"] == "2026-01-02T03:04:05Z"
    assert len(models["gemma2:latest"]["digest"]) == 64
    (loaded,) = running(FLEET)
    assert (loaded["name"], loaded["context_length"], loaded["size_vram"]) == ("llama3.2:3b", 8_192, 2_000)


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("llama3.2:3b", ["completion", "tools"]),
        ("gemma2:latest", ["completion"]),
        ("nomic:v1", ["embedding"]),
        ("groq/openai/gpt-oss-20b", ["completion", "thinking", "tools"]),
    ],
)
def test_models_are_described(name: str, capabilities: list[str]) -> None:
    shown = description(FLEET[name])
    assert shown["capabilities"] == capabilities
    if name == "llama3.2:3b":
        assert shown["model_info"] == {"general.architecture": "llama", "llama.context_length": 8_192}
        assert shown["details"]["family"] == "llama"


def test_a_model_in_memory_stands_for_it() -> None:
    assert isinstance(FLEET["llama3.2:3b"], FleetModel)
    assert FLEET["llama3.2:3b"].node.node == "n2"


def end(*parts: MessagePart, **fields: Any) -> TaskView:
    choice = AnswerChoice(index=0, parts=parts, finish_reason=fields.pop("finish_reason", "stop"),
                          logprobs=fields.pop("logprobs", None))  # fmt: skip
    return TaskView(
        task_id="t", tenant="acme", submitted_at=NOW, completed_at=NOW + 1_500, status="succeeded", choices=(choice,),
        usage=Usage(input_tokens=11, output_tokens=5), model_ms=1_200.0, provider="ollama", model="m", **fields,
    )  # fmt: skip


def part(kind: PartKind, text: str, **fields: Any) -> MessagePart:
    return MessagePart(kind=kind, content=plain(text), **fields)


@pytest.mark.parametrize(
    ("finish", "done"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("refusal", "stop"), (None, "stop")],
)
def test_a_whole_answer(finish: str | None, done: str) -> None:
    told = OllamaAnswer("m", chat=True).whole(end(part(PartKind.TEXT, "Hi"), finish_reason=finish))
    assert (told["message"], told["done"], told["done_reason"]) == ({"role": "assistant", "content": "Hi"}, True, done)
    assert (told["total_duration"], told["eval_duration"]) == (1_500_000_000, 1_200_000_000)
    assert (told["prompt_eval_count"], told["eval_count"]) == (11, 5)
    assert (told["model"], told["created_at"]) == ("m", "2027-01-15T08:00:01.500000Z")
    assert OllamaAnswer("m", chat=False).whole(end(part(PartKind.TEXT, "Hi")))["response"] == "Hi"


def test_thoughts_calls_and_log_probabilities_are_told() -> None:
    call = part(PartKind.TOOL_CALL, '{"city": "Lisbon"}', call_id="c1", name="weather")
    probability = plain(json.dumps([{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]))
    told = OllamaAnswer("m", chat=True).whole(end(part(PartKind.REASONING, "hm"), call, logprobs=probability))
    assert told["message"]["thinking"] == "hm"
    (made,) = told["message"]["tool_calls"]
    assert made == {"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Lisbon"}}}
    assert told["logprobs"][0]["token"] == "a"


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("kind", [PartKind.TEXT, PartKind.REASONING, PartKind.REFUSAL])
def test_pieces_of_a_stream(is_chat: bool, kind: PartKind) -> None:
    told = OllamaAnswer("m", chat=is_chat).piece(HeardPiece(kind, 0, 0, "Hi", None, None), NOW)
    said = told["message"] if is_chat else told
    thought = kind is PartKind.REASONING
    assert said.get("thinking", "") == ("Hi" if thought else "")
    assert said["content" if is_chat else "response"] == ("" if thought else "Hi")
    assert told["done"] is False
