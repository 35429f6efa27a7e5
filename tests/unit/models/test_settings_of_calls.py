"""How a call asks for num_ctx, keep_alive, think and top_k: the caller before role and model, these before the node."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptRequested,
    Lane,
    Message,
    ModelOperation,
    ModelSettings,
    Options,
    Privacy,
    Sampling,
)
from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults
from headrace_models import capabilities
from headrace_models.dialects import PRESETS, body_of
from headrace_models.ollama_requests import body_of as ollama_body
from headrace_models.ollama_requests import embed_body_of, load_length
from headrace_models.ports import ChatRequest, ModelInfo
from headrace_models.worker.requests import WorkInvalid, chat_request, embed_request

THINKER = ModelInfo("qwen3:8b", context_tokens=40_960, capabilities=frozenset({capabilities.REASONING}))
NODE = NodeDefaults(num_ctx=4_096, max_num_ctx=16_384, keep_alive="10m", think="off", top_k=10)
SETTINGS = ModelSettings(num_ctx=8_192, keep_alive="2h", think="on", top_k=20)


def attempt(settings: ModelSettings | None = None, text: str = "hi", **options: Any) -> AttemptRequested:
    return AttemptRequested(
        attempt_id="t/1", task_id="t", tenant="acme", number=1, home_partition=0, provider="ollama", model="qwen3:8b",
        messages=(Message(role="user", content=plain(text)),), sampling=Sampling(max_output_tokens=100),
        privacy=Privacy.SENSITIVE, lane=Lane.BATCH, requested_at=0, settings=settings,
        options=Options(**options) if options else None,
    )  # fmt: skip


def asked(settings: ModelSettings | None = None, text: str = "hi", **options: Any) -> ChatRequest:
    return chat_request(attempt(settings, text, **options), 60, first_token_seconds=60, between_tokens_seconds=60)


def body(
    settings: ModelSettings | None = None, node: NodeDefaults = NO_DEFAULTS, model: ModelInfo = THINKER, **options: Any
) -> dict[str, Any]:
    return ollama_body(asked(settings, **options), model, keep_alive="30m", defaults=node)


def shown(found: dict[str, Any]) -> tuple[Any, ...]:
    return found["options"]["num_ctx"], found.get("keep_alive"), found.get("think"), found["options"].get("top_k")


def extra(**fields: Any) -> dict[str, Any]:
    return {name: plain(json.dumps(value)) for name, value in fields.items()}


def test_the_caller_goes_before_role_and_model_these_before_the_node_and_that_before_the_worker() -> None:
    assert shown(body()) == (4_096, "30m", None, None)
    assert shown(body(node=NODE)) == (4_096, "10m", False, 10)
    assert shown(body(SETTINGS, NODE)) == (8_192, "2h", True, 20)
    said = extra(options={"num_ctx": 12_000, "top_k": 30}, keep_alive="5s", think=False)
    assert shown(body(SETTINGS, NODE, extra=said)) == (12_000, "5s", False, 30)
    assert shown(body(SETTINGS, NODE, top_k=40, reasoning_tokens=0)) == (8_192, "2h", False, 40)
    assert shown(body(SETTINGS, NODE, reasoning_effort="high"))[2] is True
    partly = ModelSettings(top_k=20)
    assert shown(body(partly, NODE)) == (4_096, "10m", False, 20), "what one leaves open, the next says"


def test_nothing_goes_beyond_what_the_node_and_the_model_can_have() -> None:
    assert shown(body(replace(SETTINGS, num_ctx=65_536), NODE))[0] == 16_384
    assert shown(body(extra=extra(options={"num_ctx": 10_000_000})))[0] == 40_960
    assert shown(body(node=NodeDefaults(max_num_ctx=2_048)))[0] == 2_048, "not even what no one asked for"


def test_a_model_in_memory_with_more_is_not_loaded_again_for_less_and_with_less_it_is() -> None:
    assert shown(body(SETTINGS, model=replace(THINKER, loaded_context_tokens=16_384)))[0] == 16_384
    assert shown(body(SETTINGS, model=replace(THINKER, loaded_context_tokens=4_096)))[0] == 8_192
    too_long = replace(THINKER, loaded_context_tokens=32_768)
    assert shown(body(SETTINGS, NODE, model=too_long))[0] == 8_192, "not what the node has no memory for"


def test_a_long_prompt_does_not_make_a_named_context_longer() -> None:
    text = "word " * 60_000
    assert ollama_body(asked(SETTINGS, text), THINKER, keep_alive=None)["options"]["num_ctx"] == 8_192
    assert ollama_body(asked(None, text), THINKER, keep_alive=None)["options"]["num_ctx"] == 40_960


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    assert shown(body(SETTINGS, model=replace(THINKER, capabilities=frozenset())))[2] is None
    levels = ModelInfo("gpt-oss:20b", capabilities=frozenset({capabilities.REASONING}))
    request = replace(asked(replace(SETTINGS, think="high")), model="gpt-oss:20b")
    assert ollama_body(request, levels, keep_alive=None)["think"] == "high"
    on = replace(request, think="on")
    assert ollama_body(on, levels, keep_alive=None)["think"] == "medium"


def test_a_preload_has_the_length_of_the_calls_that_follow() -> None:
    for node, settings in (
        (NODE, None),
        (NODE, SETTINGS),
        (NO_DEFAULTS, SETTINGS),
        (NODE, ModelSettings(num_ctx=99_999)),
    ):
        length = load_length(THINKER, None if settings is None else settings.num_ctx, node)
        assert body(settings, node)["options"]["num_ctx"] == length
    assert load_length(THINKER, None) is None, "then it is the server's own, and calls take what they find"


def test_vectors_are_made_with_the_same_settings() -> None:
    request = replace(attempt(SETTINGS, inputs=(plain("a text"),)), operation=ModelOperation.EMBED, messages=())
    found = embed_body_of(embed_request(request, 60), THINKER, keep_alive="30m", defaults=NODE)
    assert (found["options"]["num_ctx"], found["keep_alive"]) == (8_192, "2h")


@pytest.mark.parametrize(
    ("server", "think", "expected"),
    [
        ("vllm", "off", {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}),
        ("llama.cpp", "on", {"top_k": 20, "chat_template_kwargs": {"enable_thinking": True}}),
        ("vllm", "low", {"top_k": 20, "reasoning_effort": "low"}),
        ("lmstudio", "off", {"top_k": 20}),
        ("openai", "off", {}),
    ],
)
def test_other_servers_get_what_they_know(server: str, think: str, expected: dict[str, Any]) -> None:
    found = body_of(asked(replace(SETTINGS, think=think)), PRESETS[server])
    fields = ("top_k", "chat_template_kwargs", "reasoning_effort", "num_ctx", "keep_alive")
    assert {name: found[name] for name in fields if name in found} == expected
    said = body_of(asked(replace(SETTINGS, think=think), reasoning_effort="high"), PRESETS["vllm"])
    assert (said["reasoning_effort"], "chat_template_kwargs" in said) == ("high", False)


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(num_ctx=-1), ModelSettings(num_ctx=2**31 - 1), ModelSettings(keep_alive="for ever"),
        ModelSettings(think="yes"), ModelSettings(top_k=0),
    ],
)  # fmt: skip
def test_settings_that_no_router_writes_are_refused_and_not_sent(settings: ModelSettings) -> None:
    with pytest.raises(WorkInvalid, match="the settings of the attempt"):
        asked(settings)


@pytest.mark.parametrize("value", [0, -5, "8192x", True, [1], 1e9])
def test_a_context_that_a_caller_cannot_mean_is_refused(value: object) -> None:
    with pytest.raises(WorkInvalid, match="num_ctx must be a whole number"):
        asked(extra=extra(options={"num_ctx": value}))
