"""Whatever stands anywhere in a body, it becomes the draft of a task or is refused: no other error comes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from headrace_intake.adapters.responses import parse_item
from headrace_intake.decide.anthropic.request import MessagesRequest, draft_of_messages
from headrace_intake.decide.anthropic.request import taken as taken_message
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.completions import CompletionRequest, drafts_of_completion, taken_completion
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.embeddings import EmbeddingsRequest, draft_of_embeddings, taken_embedding
from headrace_intake.decide.moderations import ModerationRequest, drafts_of_moderation
from headrace_intake.decide.ollama.requests import (
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    draft_of_generate,
    draft_of_ollama_chat,
    draft_of_ollama_embed,
    taken_ollama,
)
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.responses.items import input_items
from headrace_intake.decide.responses.request import (
    NOTHING_EARLIER,
    ResponseRequest,
    draft_of_response,
    expect_coherent,
    taken_response,
)
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, taken_task
from headrace_runtime.http import parse_model
from headrace_runtime.problems import Problem
from pydantic import ValidationError

Body = Mapping[str, Any]

PNG = "data:image/png;base64,iVBORw0KGgo="
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"place": {"type": "string"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"place": "there"}'}}
CHAT: dict[str, Any] = {
    "model": "groq/llama", "n": 2, "stop": ["x"], "metadata": {"a": "b"}, "logit_bias": {"5": 1.5}, "deadline": 30,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PNG}},
        ]},
        {"role": "assistant", "tool_calls": [CALL], "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
        {"role": "tool", "tool_call_id": "c", "content": "a cat"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "provider_options": {"groq": {"a": [1]}},
}  # fmt: skip
RESPONSE: dict[str, Any] = {
    "model": "auto", "instructions": "Be brief.", "metadata": {"a": "b"}, "include": ["reasoning.encrypted_content"],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"}, "background": True, "conversation": {"id": "conv_1"},
    "tools": [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
    "input": [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PNG},
            {"type": "input_file", "file_data": PNG, "filename": "a.png"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}],
         "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a cat"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "A cat", "annotations": []}]},
        {"role": "user", "content": "And this?"},
    ],
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "auto", "max_tokens": 2000, "stop_sequences": ["x"],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [{"name": "look", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "look"},
    "metadata": {"user_id": "ann"},
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}, "title": "t"},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "tool_use", "id": "t", "name": "look", "input": {"place": "there"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a cat"}]},
        ]},
    ],
}  # fmt: skip
OLLAMA: dict[str, Any] = {
    "model": "gemma2:2b", "think": "low", "format": SCHEMA, "keep_alive": "5m", "deadline": 30,
    "options": {"num_predict": 3, "stop": ["x"], "seed": 1},
    "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
    "messages": [
        {"role": "user", "content": "What is this?", "images": ["iVBORw0KGgo="]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "look", "content": "a cat"},
    ],
}  # fmt: skip


def _of_response(body: Body) -> TaskDraft:
    asked = parse_model(taken_response(body), ResponseRequest)
    expect_coherent(asked)
    return draft_of_response(asked, input_items(asked.input, parse_item), {}, NOTHING_EARLIER, 1_000_000)


def _of_ollama(model: type[Any], draft: Callable[[Any, Body, Any], TaskDraft], body: Body) -> TaskDraft:
    kept = taken_ollama(body, model)
    try:
        return draft(parse_model(kept, model), kept, {})
    except ValidationError as wrong_option:
        raise Refusal(400, "invalid-request", str(wrong_option)) from None


APIS: dict[str, tuple[Callable[[Body], object], dict[str, Any]]] = {
    "tasks": (lambda body: draft_of_task(parse_model(taken_task(body), TaskRequest)),
              {**{name: value for name, value in CHAT.items() if name != "metadata"}, "labels": {"a": "b"}}),
    "chat": (lambda body: draft_of_chat(parse_model(taken(body), ChatCompletionRequest)), CHAT),
    "responses": (_of_response, RESPONSE),
    "messages": (lambda body: draft_of_messages(parse_model(taken_message(body), MessagesRequest)), MESSAGES),
    "completions": (lambda body: drafts_of_completion(parse_model(taken_completion(body), CompletionRequest)),
                    {"model": "auto", "prompt": ["a", "b"], "n": 2, "logprobs": 1, "stream_options": {}}),
    "embeddings": (lambda body: draft_of_embeddings(parse_model(taken_embedding(body, EmbeddingsRequest),
                                                                EmbeddingsRequest)),
                   {"model": "auto", "input": ["a", "b"], "dimensions": 3, "metadata": {"a": "b"}}),
    "moderations": (lambda body: drafts_of_moderation(parse_model(body, ModerationRequest)),
                    {"input": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PNG}}]}),
    "ollama chat": (lambda body: _of_ollama(OllamaChatRequest, draft_of_ollama_chat, body), OLLAMA),
    "ollama generate": (lambda body: _of_ollama(OllamaGenerateRequest, draft_of_generate, body),
                        {"model": "gemma2:2b", "prompt": "a", "system": "b", "images": ["iVBORw0KGgo="],
                         "options": {"mirostat": 0}}),
    "ollama embed": (lambda body: _of_ollama(OllamaEmbedRequest, draft_of_ollama_embed, body),
                     {"model": "nomic-embed-text", "input": ["a"], "options": {"num_ctx": 5}}),
}  # fmt: skip
# What is no I-JSON does not get as far as this.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, "", "no such", "\0", "{}", "data:,", "x" * 300, [], [None], [[]], [{}], {},
    {"type": []}, {"type": {}}, {"type": "text"}, {"role": []}, {"": None}, {"a": {"b": [{}]}}, ["x", {}, 3],
)  # fmt: skip
NAMES = ("type", "role", "id", "content", "\0")


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, value in items:
        yield from _places(value, (*path, step))


def _oddities(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The body with each of its values replaced, left out, and with one more field wherever one can be."""
    for path in _places(body):
        made = copy.deepcopy(body)
        node: Any = made
        for step in path[:-1]:
            node = node[step]
        if path:
            for odd in ODD:
                node[path[-1]] = odd
                yield made
            del node[path[-1]]
            yield made
        else:
            for name in NAMES:
                for odd in ODD:
                    yield {**made, name: odd}
        inner = copy.deepcopy(body)
        node = inner
        for step in path:
            node = node[step]
        if isinstance(node, dict) and path:
            for name in NAMES:
                former = node.get(name, ...)
                for odd in ODD:
                    node[name] = odd
                    yield inner
                if former is ...:
                    del node[name]
                else:
                    node[name] = former


@pytest.mark.parametrize("api", APIS)
def test_every_body_becomes_a_draft_or_is_refused(api: str) -> None:
    draft, body = APIS[api]
    draft(copy.deepcopy(body))
    refused = 0
    for odd in _oddities(body):
        try:
            draft(odd)
        except (Refusal, Problem) as error:
            refused += error.status in (400, 413)
        except Exception as error:
            raise AssertionError(f"{error!r} came of {odd!r}") from error
    assert refused > 100
