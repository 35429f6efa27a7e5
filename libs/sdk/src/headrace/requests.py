"""The options of a task, as arguments and on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypedDict

from headrace.message_documents import documents_of
from headrace.messages import Prompt
from headrace.tools import Tool, tools_of

__all__ = ["Prompt", "TaskOptions", "Tools", "task_body"]

Tools = Sequence[Tool | Callable[..., Any] | Mapping[str, Any]]
"""Tools that the model may call: functions, `Tool`s, or objects as OpenAI's chat API has them."""

_WORDS: Final = frozenset({"none", "auto", "required"})


class TaskOptions(TypedDict, total=False):
    """Everything about a task besides its prompt. Name a role, which chooses the model, or a model, or neither.

    role: Role of the routing policy, such as code_reviewer.
    model: auto (the policy chooses), provider/model, or a bare model name.
    privacy: sensitive (never leaves our nodes), internal (only providers that the preferences name), public. Less than
        the preferences demand is refused.
    priority: interactive or batch.
    budget: Highest total cost of all attempts, in US dollars.
    deadline: When the answer becomes useless: seconds from now, or an aware time.
    session: Conversation whose tasks keep their order.
    subject: The person whom the content is about, for audit and erasure.
    kind: Your own name for this type of work, for reports.
    user: The user on whose behalf you submit, as you name them.
    mode: local, cloud or hybrid.
    preferred_provider: Provider to try first if the rules allow it.
    provider: What is asked of the choice among models, as OpenRouter's `provider`: order, only, ignore, sort (price,
        latency, throughput) or strategy, max_price, min_throughput, allow_fallbacks, require_parameters,
        data_collection, zdr; and cascade and ensemble, to ask for what the role has of these, or to forbid it.
    allow_cached: Whether the earlier answer of an equal task may be used.
    max_tokens, temperature, top_p, stop, seed, json: Sampling; json asks for an answer that is one JSON value.
    tools: Tools that the model may call. `run_tools` calls them as well.
    tool_choice: none, auto, required, the name of the tool that must be called, or an object as OpenAI's.
    parallel_tool_calls: Whether it may call several at once.
    response_format: The form of the answer, as an object as OpenAI's; see also the argument `schema` of `ask`.
    n: Number of answers.
    presence_penalty, frequency_penalty, top_k, logit_bias: Sampling, where the provider's API has it.
    logprobs, top_logprobs: Log probabilities of the answer's tokens, and of so many alternatives.
    reasoning_effort, verbosity, service_tier: Hints for providers that know them.
    queries: What a role with research searches for, at most 8; by default your last message.
    labels: Free labels, carried to the completed task.
    """

    role: str | None
    model: str | None
    privacy: str | None
    priority: str | None
    budget: Decimal | float | None
    deadline: float | datetime | None
    session: str | None
    subject: str | None
    kind: str | None
    user: str | None
    mode: str | None
    preferred_provider: str | None
    provider: Mapping[str, Any] | None
    allow_cached: bool | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str] | None
    seed: int | None
    json: bool | None
    tools: Tools | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    top_k: int | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    reasoning_effort: str | None
    verbosity: str | None
    service_tier: str | None
    queries: Sequence[str] | None
    labels: Mapping[str, str] | None


def task_body(prompt: Prompt, options: TaskOptions, *, stream: bool) -> dict[str, Any]:
    """The body of POST /v1/tasks. Raises ValueError."""
    body: dict[str, Any] = {"messages": documents_of(prompt)}
    if stream:
        body["stream"] = True
    for name, value in options.items():
        if value is not None:
            body[name] = _plain(name, value)
    if "role" not in body and "model" not in body:
        body["model"] = "auto"
    return body


def _plain(name: str, value: Any) -> Any:
    """An option as JSON has it."""
    match name, value:
        case "budget", _:
            return float(value)
        case "tools", _:
            return [tool.document() for tool in tools_of(value)]
        case "tool_choice", str() if value not in _WORDS:
            return {"type": "function", "function": {"name": value}}
        case _, datetime():
            if value.tzinfo is None:
                raise ValueError("the deadline needs a time zone, such as datetime.now(UTC) + timedelta(minutes=5)")
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _, Mapping():
            return dict(value)
        case "queries", _:
            return [value] if isinstance(value, str) else list(value)
        case "stop", _:
            return [value] if isinstance(value, str) else list(value)
        case _:
            return value
