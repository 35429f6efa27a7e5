"""The body of POST /v1/tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from headrace_intake.decide.drafts import TaskDraft, conversation, designation
from headrace_intake.decide.messages import MessageIn, taken_messages
from headrace_intake.decide.model_options import ModelOptions, options_of, wants_json
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.provider_options import HOW_TO_PASS_ON
from headrace_intake.decide.refusals import bad_request

DEFAULT_KIND: Final = "task"


class TaskRequest(SubmitOptions, ModelOptions):
    """A task as callers of the tasks API write it."""

    operation: Literal["chat"] = "chat"
    model: Name | None = None
    messages: Annotated[list[MessageIn], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    json_answer: Annotated[bool, Field(alias="json")] = False
    labels: Labels | None = None


_FIELDS: Final = frozenset(field.alias or name for name, field in TaskRequest.model_fields.items())


def taken_task(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what has no effect in its messages. Raises Refusal if it requests something unsupported."""
    for name in document:
        if name not in _FIELDS:
            raise bad_request(f"{name}: this parameter is not supported here{HOW_TO_PASS_ON}.", name)
    kept = dict(document)
    if "messages" in kept:
        kept["messages"] = taken_messages(kept["messages"])
    return kept


def draft_of_task(request: TaskRequest) -> TaskDraft:
    """The draft of the request. Raises Refusal."""
    role, model = designation(request.model, request.role)
    if (request.messages is None) == (request.prompt is None):
        raise bad_request("Give either `prompt` or `messages`.", "messages")
    messages = request.messages or [MessageIn(role="user", content=request.prompt or "")]
    return TaskDraft(
        options=request,
        messages=conversation(messages),
        role=role,
        model=model,
        kind=request.kind or DEFAULT_KIND,
        lane=request.priority,
        json=request.json_answer or wants_json(request),
        asked=options_of(request, model=model, preferred_provider=request.preferred_provider),
        allow_cached=request.allow_cached is not False,
        labels=dict(request.labels or {}),
    )


def expect_object(document: Any) -> dict[str, Any]:
    """The body as a JSON object. Raises Refusal."""
    if not isinstance(document, dict):
        raise bad_request("The body must be a JSON object.", "(body)")
    return document


def parse_wait(preferences: Iterable[str], longest_seconds: float) -> float | None:
    """Seconds of `wait=` in Prefer headers (RFC 7240), capped at the longest; None if there is no valid one.

    A preference that cannot be honoured is ignored, as the RFC requires.
    """
    for header in preferences:
        for preference in header.split(","):
            name, _, value = preference.split(";")[0].partition("=")
            seconds = value.strip().strip('"')
            if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
                return min(float(seconds), longest_seconds)
    return None
