"""What each server of the OpenAI-compatible family, and Anthropic, is sent."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_models.anthropic_requests import body_of as _body
from headrace_models.conversation import ChatMessage
from headrace_models.dialects import PRESETS, DialectInvalid, body_of, dialect_for
from headrace_models.ports import ChatRequest
from hypothesis import given
from hypothesis import strategies as st

ASKED = ChatRequest(
    "m", (ChatMessage("user", "hi"),), timeout_seconds=1, max_output_tokens=9, temperature=0.5, top_p=0.9,
    stop=("a", "b", "c", "d", "e"), seed=7, json=True,
)  # fmt: skip
ALWAYS = {"model", "messages", "stream", "temperature", "stop"}
SENT = {
    "generic": {"max_tokens", "stream_options", "seed", "response_format", "top_p"},
    "groq": {"max_completion_tokens", "stream_options", "seed", "response_format", "top_p"},
    "openai": {"max_completion_tokens", "stream_options", "seed", "response_format", "top_p"},
    "mistral": {"max_tokens", "random_seed", "response_format", "top_p"},
    "together": {"max_tokens", "stream_options", "seed", "response_format", "top_p"},
    "deepseek": {"max_tokens", "stream_options", "response_format", "top_p"},
    "openrouter": {"max_tokens", "stream_options", "seed", "response_format", "top_p"},
    "vllm": {"max_tokens", "stream_options", "seed", "response_format", "top_p"},
    "llama.cpp": {"max_tokens", "stream_options", "seed", "response_format", "top_p"},
    "lmstudio": {"max_tokens", "stream_options", "seed", "top_p"},
    "mlx": {"max_tokens", "stream_options", "seed", "top_p"},
}


def test_every_preset_is_described_here() -> None:
    assert SENT.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", SENT)
def test_a_server_is_sent_the_fields_that_it_takes(preset: str) -> None:
    assert body_of(ASKED, PRESETS[preset]).keys() == ALWAYS | SENT[preset]


def test_fields_that_were_not_asked_for_are_not_sent() -> None:
    bare = ChatRequest("m", (ChatMessage("user", "hi"),), timeout_seconds=1)
    assert body_of(bare, PRESETS["mistral"]).keys() == {"model", "messages", "stream", "max_tokens"}


@pytest.mark.parametrize(
    ("name", "host", "description", "preset"),
    [
        ("mistral", "proxy.example", "", "mistral"),
        ("eu", "api.mistral.ai", "", "mistral"),
        ("eu", "eu.api.mistral.ai", "", "mistral"),
        ("x", "notapi.mistral.ai.example", "", "generic"),
        ("x", "openrouter.ai", "", "openrouter"),
        ("x", "gpu", "vllm", "vllm"),
        ("mistral", "api.mistral.ai", "openai", "openai"),
    ],
)
def test_a_dialect_follows_from_description_name_or_address(
    name: str, host: str, description: str, preset: str
) -> None:
    assert dialect_for(name, host, description) == PRESETS[preset]


def test_a_preset_can_be_changed() -> None:
    changed = dialect_for("x", "h", "vllm;limit=max_completion_tokens;usage=off;seed=off;json=off;top_p=off;stops=1")
    assert body_of(ASKED, changed).keys() == ALWAYS | {"max_completion_tokens"}
    assert body_of(ASKED, changed)["stop"] == ["a"]


@pytest.mark.parametrize("description", ["vlm", "vllm;seed", "seed=7", "limit=max", "vllm;;", "stops=-1", "colour=red"])
def test_a_description_that_makes_no_sense_is_refused(description: str) -> None:
    with pytest.raises(DialectInvalid):
        dialect_for("x", "h", description)


TEXTS = st.sampled_from(["", " ", "\n\t", "a", " a ", "a\n", "\u00a0", "\u3000"]) | st.text(max_size=5)
CONVERSATIONS = st.lists(
    st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=6
)


@given(CONVERSATIONS, st.lists(TEXTS, max_size=4), st.booleans())
def test_any_conversation_is_one_that_anthropic_takes(
    messages: list[ChatMessage], stops: list[str], json: bool
) -> None:
    request = ChatRequest("claude-haiku-4-5", tuple(messages), timeout_seconds=1, stop=tuple(stops), json=json)
    body: dict[str, Any] = _body(request)
    turns = body["messages"]
    assert turns, "there is at least one"
    assert turns[0]["role"] == "user"
    assert all(turn["content"].strip() for turn in turns)
    assert turns[-1]["role"] == "user" or turns[-1]["content"] == turns[-1]["content"].rstrip()
    assert not isinstance(body["system"], str) or body["system"].strip()
    assert not isinstance(body["stop_sequences"], list) or all(stop.strip() for stop in body["stop_sequences"])
    kept = [message.text.strip() for message in messages if message.text.strip()]
    sent = (body["system"] if isinstance(body["system"], str) else "") + "".join(turn["content"] for turn in turns)
    assert all(text in sent for text in kept), "nothing that was said is left out"
