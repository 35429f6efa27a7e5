"""From a caller's request to the event to submit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from headrace_contracts import designation as designations
from headrace_contracts import floors
from headrace_contracts.cargo import has_urls, keyed_content, says_something
from headrace_contracts.content import plain
from headrace_contracts.designation import DesignationInvalid
from headrace_contracts.events import (
    Lane,
    Message,
    Mode,
    ModelOperation,
    Options,
    Place,
    Privacy,
    Routing,
    Sampling,
    TaskSubmitted,
    Turn,
)
from headrace_contracts.floors import BELOW_FLOOR, CONTRADICTION, Asked, Demands, Party
from headrace_contracts.ids import route_key

from headrace_intake.decide.message_counts import objection_to
from headrace_intake.decide.messages import MessageIn
from headrace_intake.decide.options import SubmitOptions, deadline_at, nanodollars
from headrace_intake.decide.refusals import Refusal, bad_request

_UNKNOWN_POLICY: Final = Demands(Privacy.PUBLIC, Mode.HYBRID)
"""The least that the routing policy, which only the router knows, may have as its default."""
_OBJECTIONS: Final[Mapping[str, tuple[int, str]]] = {
    CONTRADICTION: (400, "privacy-contradiction"),
    BELOW_FLOOR: (403, "below-floor"),
}


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
    operation: ModelOperation = ModelOperation.CHAT
    asked: Options | None = None
    allow_cached: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    turn: Turn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who submits, when, under which id, and which partition receives the replies; None if nobody waits for them."""

    task_id: str
    tenant: str
    key_id: str
    now_ms: int
    reply_partition: int | None


def designation(model: str | None, role: str | None) -> tuple[str | None, str | None]:
    """The pair (role, model) for the `model` field (`role:x`, `auto`, a model name) and the `role` field.

    Raises Refusal when they name two roles, or a role and a model.
    """
    try:
        return designations.designation(model, role)
    except DesignationInvalid as error:
        raise bad_request(str(error), error.field) from None


def conversation(messages: Collection[MessageIn]) -> tuple[Message, ...]:
    """The messages as the event holds them. Raises Refusal if they contain nothing."""
    said = tuple(message.event() for message in messages)
    if not any(says_something(message) for message in said):
        raise bad_request("There is nothing in the messages.", "messages")
    return said


def sampling_of(draft: TaskDraft) -> Sampling:
    """The parameters of the answer."""
    options = draft.options
    stop = options.stop
    return Sampling(
        max_output_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        seed=options.seed,
        json=draft.json,
    )


def submission(draft: TaskDraft, origin: Submitter) -> TaskSubmitted:
    """The event for Kafka. Raises Refusal for a deadline in the past, and for what `provider` cannot mean."""
    options = draft.options
    return TaskSubmitted(
        task_id=origin.task_id,
        tenant=origin.tenant,
        user=options.user or "",
        key_id=origin.key_id,
        kind=draft.kind,
        role=draft.role,
        model=draft.model,
        messages=draft.messages,
        sampling=sampling_of(draft),
        operation=draft.operation,
        options=_with_queries(draft.asked, options.queries),
        privacy=options.privacy,
        lane=draft.lane,
        mode=options.mode,
        preferred_provider=options.preferred_provider,
        routing=_routing(options),
        budget_nanodollars=None if options.budget is None else nanodollars(options.budget),
        deadline_at=deadline_at(options.deadline, origin.now_ms),
        session=options.session,
        subject=options.subject,
        labels=draft.labels,
        turn=draft.turn,
        stream=options.stream,
        allow_cached=draft.allow_cached,
        reply_partition=origin.reply_partition,
        submitted_at=origin.now_ms,
    )


def _routing(options: SubmitOptions) -> Routing | None:
    try:
        return None if options.provider is None else options.provider.event()
    except ValueError as error:
        field, _, why = str(error).partition(": ")
        raise bad_request(f"{field}: {why}.", field) from None


def _with_queries(asked: Options | None, queries: Sequence[str] | None) -> Options | None:
    if not queries:
        return asked
    return replace(asked or Options(), queries=tuple(plain(query) for query in queries))


def record_key(task: TaskSubmitted) -> bytes:
    """The key of all records of the task."""
    return route_key(
        tenant=task.tenant,
        session=task.session,
        role=task.role,
        model=task.model,
        messages=keyed_content(task.messages, task.options),
    ).encode()


def who_asks(draft: TaskDraft) -> int:
    """A number by which this process recognises a request that comes back after it was refused: by what it says."""
    return hash((draft.options.session, draft.options.user, *keyed_content(draft.messages, draft.asked)))


def refusal_of(
    draft: TaskDraft, demands: Mapping[Party, Demands], places: Mapping[str, Place], by: Party = Party.TASKS_KEY
) -> Refusal | None:
    """Why a task must not run as it asks to, as far as that is known without the routing policy; None if it may.

    Args:
        demands: Of its tenant and its user.
        places: The known providers.
        by: Who asks.
    """
    too_many = objection_to(draft.messages)
    if too_many is not None:
        return too_many
    options, place_of = draft.options, places.get
    asked = Asked(options.privacy, options.mode, draft.model, options.preferred_provider)
    terms = floors.terms(asked, demands, place_of, default=_UNKNOWN_POLICY, by=by)
    if terms.objection is not None:
        status, kind = _OBJECTIONS[terms.objection.code]
        return Refusal(status, kind, terms.objection.message, terms.objection.field)
    if has_urls(draft.messages) and terms.privacy is not Privacy.PUBLIC:
        why = f"Content at an address is for public tasks only, and this one is {terms.privacy}: send the bytes."
        return Refusal(400, "url-not-public", why, "messages")
    if draft.asked is not None and draft.asked.extra and _nobody_gets_them(draft, places):
        why = "provider_options: there is no such provider here; GET /v1/models shows those that there are."
        return Refusal(400, "invalid-request", why, "provider_options")
    provider = floors.named_provider(draft.model, place_of)
    excluded = None if provider is None else terms.exclusion(provider, places[provider])
    if excluded is None:
        return None
    code, why = excluded
    return Refusal(403, code.replace("_", "-"), f"{provider} must not get this task: {why}.", "model")


def _nobody_gets_them(draft: TaskDraft, places: Mapping[str, Place]) -> bool:
    """Whether a task that has parameters for one provider names none that is known."""
    return draft.options.preferred_provider not in places and floors.named_provider(draft.model, places.get) is None
