"""The options of a task, as arguments and on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

Prompt = str | Sequence[Mapping[str, str]]
"""A user's message, or a conversation: [{"role": "user", "content": "…"}, …]."""


class TaskOptions(TypedDict, total=False):
    """Everything about a task besides its prompt. Name a role, which chooses the model, or a model, or neither.

    role: Role of the routing policy, such as code_reviewer.
    model: auto (the policy chooses), provider/model, or a bare model name.
    privacy: sensitive (never leaves our nodes), internal (only providers that the preferences name), public.
    priority: interactive or batch.
    budget: Highest total cost of all attempts, in US dollars.
    deadline: When the answer becomes useless: seconds from now, or an aware time.
    session: Conversation whose tasks keep their order.
    subject: The person whom the content is about, for audit and erasure.
    kind: Your own name for this type of work, for reports.
    user: The user on whose behalf you submit, as you name them.
    mode: local, cloud or hybrid.
    preferred_provider: Provider to try first if the rules allow it.
    allow_cached: Whether the earlier answer of an equal task may be used.
    max_tokens, temperature, top_p, stop, seed, json: Sampling; json asks for an answer that is one JSON value.
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
    allow_cached: bool | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str] | None
    seed: int | None
    json: bool | None
    labels: Mapping[str, str] | None


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """The messages of a prompt. Raises ValueError if it is empty or malformed."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = [dict(message) for message in prompt]
    if not messages:
        raise ValueError("a task needs at least one message")
    for message in messages:
        if message.keys() != {"role", "content"}:
            raise ValueError("a message has a role and a content, nothing else")
    return messages


def task_body(prompt: Prompt, options: TaskOptions, *, stream: bool) -> dict[str, Any]:
    """The body of POST /v1/tasks. Raises ValueError."""
    body: dict[str, Any] = {"messages": messages_of(prompt)}
    if stream:
        body["stream"] = True
    for name, value in options.items():
        if value is None:
            continue
        if name == "budget":
            assert isinstance(value, Decimal | float | int)
            body[name] = float(value)
        elif isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError("the deadline needs a time zone, such as datetime.now(UTC) + timedelta(minutes=5)")
            body[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        elif name == "labels":
            assert isinstance(value, Mapping)
            body[name] = dict(value)
        elif name == "stop":
            assert isinstance(value, Sequence)
            body[name] = list(value)
        else:
            body[name] = value
    if "role" not in body and "model" not in body:
        body["model"] = "auto"
    return body
