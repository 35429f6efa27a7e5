"""From a caller's request to the event to submit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from headrace_contracts import designation as designations
from headrace_contracts.content import plain
from headrace_contracts.designation import DesignationInvalid
from headrace_contracts.events import Lane, Message, Mode, Privacy, Sampling, TaskSubmitted
from headrace_contracts.ids import route_key

from headrace_intake.decide.messages import MessageIn
from headrace_intake.decide.options import SubmitOptions, deadline_at, nanodollars
from headrace_intake.decide.refusals import Refusal, bad_request


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDraft:
    """A requested task, before it has an id, an owner and a time."""

    options: SubmitOptions
    messages: tuple[Message, ...]
    role: str | None
    model: str | None
    kind: str
    lane: Lane | None
    json: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who submits, when, under which id, and which partition receives the replies."""

    task_id: str
    tenant: str
    key_id: str
    now_ms: int
    reply_partition: int


def designation(model: str | None, role: str | None) -> tuple[str | None, str | None]:
    """The pair (role, model) for the `model` field (`role:x`, `auto`, a model name) and the `role` field.

    Raises Refusal when they name two roles, or a role and a model.
    """
    try:
        return designations.designation(model, role)
    except DesignationInvalid as error:
        raise bad_request(str(error), error.field) from None


def conversation(messages: Collection[MessageIn]) -> tuple[Message, ...]:
    """The messages as the event holds them. Raises Refusal if they contain no text."""
    said = tuple(Message(role=message.speaker(), content=plain(message.text())) for message in messages)
    if not any(message.content.data for message in said):
        raise bad_request("There is no text in the messages.", "messages")
    return said


def submission(draft: TaskDraft, origin: Submitter) -> TaskSubmitted:
    """The event for Kafka. Raises Refusal for a deadline in the past."""
    options = draft.options
    stop = options.stop
    return TaskSubmitted(
        task_id=origin.task_id,
        tenant=origin.tenant,
        user=options.user or "",
        key_id=origin.key_id,
        kind=draft.kind,
        role=draft.role,
        model=draft.model,
        messages=draft.messages,
        sampling=Sampling(
            max_output_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            seed=options.seed,
            json=draft.json,
        ),
        privacy=options.privacy,
        lane=draft.lane,
        mode=options.mode,
        preferred_provider=options.preferred_provider,
        budget_nanodollars=None if options.budget is None else nanodollars(options.budget),
        deadline_at=deadline_at(options.deadline, origin.now_ms),
        session=options.session,
        subject=options.subject,
        labels=draft.labels,
        stream=options.stream,
        allow_cached=options.allow_cached is not False,
        reply_partition=origin.reply_partition,
        submitted_at=origin.now_ms,
    )


def record_key(task: TaskSubmitted) -> bytes:
    """The key of all records of the task."""
    return route_key(
        tenant=task.tenant,
        session=task.session,
        role=task.role,
        model=task.model,
        messages=((message.role, message.content.data) for message in task.messages),
    ).encode()


def contradiction(draft: TaskDraft, cloud_providers: Collection[str]) -> Refusal | None:
    """Why a sensitive task asks for something it must not get; None if it does not."""
    if draft.options.privacy is not Privacy.SENSITIVE:
        return None
    if draft.options.mode is Mode.CLOUD:
        return bad_request(
            "Sensitive content never leaves our nodes, so it cannot run in mode cloud: ask for local or hybrid.",
            "mode",
            "privacy-contradiction",
        )
    provider, slash, _ = (draft.model or "").partition("/")
    if slash and provider in cloud_providers:
        return bad_request(
            f"Sensitive content never leaves our nodes, and {provider} is a cloud provider: "
            "name a local model or a role.",
            "model",
            "privacy-contradiction",
        )
    return None
