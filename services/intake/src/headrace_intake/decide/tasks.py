"""The body of POST /v1/tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from headrace_intake.decide.drafts import TaskDraft, conversation, designation
from headrace_intake.decide.messages import MessageIn, taken_messages
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.refusals import bad_request

DEFAULT_KIND: Final = "task"


class TaskRequest(SubmitOptions):
    """A task as callers of the tasks API write it."""

    model: Name | None = None
    messages: Annotated[list[MessageIn], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    json_answer: Annotated[bool, Field(alias="json")] = False
    labels: Labels | None = None


def taken_task(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what has no effect in its messages. Raises Refusal if they request something unsupported."""
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
        json=request.json_answer,
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
