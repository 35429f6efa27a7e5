"""Whatever is wrong with a body, its author is told in the body's own terms."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from headrace_intake.decide.chat import ChatCompletionRequest, taken
from headrace_intake.decide.keys import KeyRequest
from headrace_intake.decide.preferences import PreferencesIn
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.tasks import TaskRequest, taken_task
from headrace_runtime.http import parse_model
from headrace_runtime.problems import Problem
from headrace_skill_broadcaster.adapters.skills_api import PublishRequest
from pydantic import BaseModel

PNG = "data:image/png;base64,iVBORw0KGgo="
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.", "name": "ann"},
    {"role": "user", "content": [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": PNG, "filename": "a.png"}},
    ]},
    {"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ], "reasoning_details": [{"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "anthropic"}]},
    {"role": "tool", "tool_call_id": "c", "content": "a cat"},
]  # fmt: skip
ASKED: dict[str, Any] = {
    "messages": CONVERSATION, "model": "auto", "privacy": "public", "priority": "batch", "budget": 0.5, "deadline": 30,
    "session": "s", "mode": "hybrid", "allow_cached": True, "max_tokens": 9, "temperature": 1, "stop": ["a"], "seed": 1,
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
    "n": 2, "top_k": 3, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1.5}, "reasoning_effort": "low",
}  # fmt: skip
BODIES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "task": (TaskRequest, {**ASKED, "labels": {"a": "b"}, "json": True}),
    "chat": (ChatCompletionRequest, {**ASKED, "metadata": {"a": "b"}, "stream_options": {"include_usage": True}}),
    "key": (KeyRequest, {"tenant": "acme", "name": "ci", "scopes": ["tasks"], "requests_per_minute": 5}),
    "preferences": (PreferencesIn, {"ai_mode": "local", "privacy_level": "high", "allowed_providers": ["groq"]}),
    "skill": (PublishRequest, {"name": "a", "body": "b", "interests": ["x"], "digest": "d"}),
}
WRONG: tuple[Any, ...] = (7, -1.5, "", "no such", [], [7], ["x", {}], {}, {"type": "no"}, {"no": 1}, True, None)
OURS = re.compile(
    r"[Vv]alue error|Input\b|Extra\b|discriminator|\btags?\b|constrained|literal\[|list\[|union\[|function-"
    r"|instance|dictionary|valid (?:string|list)|<|None|True|False|Decimal|[A-Z][a-z]+In\b|Request\b"
)
"""Python's and pydantic's words."""


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, value in items:
        yield from places(value, (*path, step))


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(body)
    node = made
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return made


def known(document: Any, field: str) -> bool:
    """Whether a path exists in the document, or would, but for its last step."""
    node, steps = document, field.split(".")
    for number, step in enumerate(steps):
        if isinstance(node, dict):
            if step not in node:
                return number == len(steps) - 1
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return False
    return True


def refusal(model: type[BaseModel], document: Any, name: str) -> Problem | Refusal | None:
    try:
        parse_model({"task": taken_task, "chat": taken}.get(name, dict)(document), model)
    except (Problem, Refusal) as error:
        return error
    return None


@pytest.mark.parametrize("name", BODIES)
def test_every_mistake_is_told_in_the_bodys_own_terms(name: str) -> None:
    model, body = BODIES[name]
    assert refusal(model, body, name) is None
    refused = 0
    for path in places(body):
        for wrong in WRONG:
            document = changed(body, path, wrong)
            problem = refusal(model, document, name)
            refused += problem is not None
            if not isinstance(problem, Problem):
                continue
            assert not OURS.search(problem.detail), (problem.detail, path, wrong)
            fields = [error["field"] for error in problem.extra["errors"]]
            assert len(set(fields)) == len(fields), fields
            assert all(known(document, field) for field in fields), (fields, path, wrong)
            # What a message may hold depends on its role, and the fields of a part on its type.
            place = ".".join(map(str, path[:-1] if path[-1] in ("role", "type", "mode") else path))
            assert any(field.startswith(place) or place.startswith(field) for field in fields), (fields, path, wrong)
    assert refused > len(body) * 2
