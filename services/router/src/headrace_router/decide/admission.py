"""What outsiders write, checked once before anything is decided about it.

Anybody may produce to the topics of tasks. What passes here is within `headrace_contracts.limits`, as if intake had
taken it over HTTP, and everything behind may rely on that. What does not pass:

- A task with a usable id ends as `failed` with the code `invalid_request` and a reason that names the field. No bad
  field is carried onward: it is emptied, or has its default.
- A task without a usable id, and a bad request to cancel, cannot be answered to anybody: `Inadmissible`, for the dead
  letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from headrace_contracts.cargo import (
    embed_objections,
    keyed_content,
    message_objections,
    messages_and_parts,
    options_objections,
    says_something,
)
from headrace_contracts.designation import DesignationInvalid, designation
from headrace_contracts.events import Failure, Message, ModelOperation, Sampling, TaskCancelled, TaskSubmitted
from headrace_contracts.ids import digest, route_key
from headrace_contracts.limits import (
    HIGHEST_TEMPERATURE,
    LARGEST_KEY,
    LONGEST_EVENT_ID,
    LONGEST_NAME,
    LONGEST_STOP,
    LONGEST_TEXT,
    MOST_BUDGET_DOLLARS,
    MOST_LABELS,
    MOST_MESSAGES,
    MOST_MESSAGES_AND_PARTS,
    MOST_OUTPUT_TOKENS,
    MOST_PARTITIONS,
    MOST_STOPS,
    NANODOLLARS_IN_A_DOLLAR,
    OPTIONAL_NAME_PATTERN,
    SPEAKERS,
    is_deadline,
    is_name,
    is_task_id,
    is_tenant,
    is_text,
    is_time,
    matches,
)
from headrace_contracts.narrowing import routing_objections

from headrace_router.decide.model import Cancelled, Submitted

INVALID_REQUEST: Final = "invalid_request"

_Objection = tuple[str, str, Any]
"""A field's path, what it must be, and what stands in its place."""

_NAME: Final = f"must have 1 to {LONGEST_NAME} characters, none of them a control character"
_OPTIONAL_NAME: Final = f"must have at most {LONGEST_NAME} characters, none of them a control character"
_TEXT: Final = f"must have at most {LONGEST_TEXT} characters, and no NUL"
_TIME: Final = "must be in milliseconds since the epoch, after 1999 and not in the future"


class Inadmissible(Exception):
    """Keep the record as a dead letter: it cannot be answered."""


def admitted_task(
    task: TaskSubmitted, key: bytes | None, home_partition: int, traceparent: str | None, now: int
) -> Submitted:
    """The event of a submitted task; with `refused` if the task is invalid.

    Raises Inadmissible for a task without a usable id.
    """
    if not is_task_id(task.task_id):
        raise Inadmissible(f"task_id must have 1 to {LONGEST_NAME} printable ASCII characters, no space and no slash")
    objections = list(_objections(task, now))
    if not objections:
        try:
            role, model = designation(task.model, task.role)
        except DesignationInvalid as error:
            objections.append((error.field, f"is invalid: {error}", None))
        else:
            if (role, model) != (task.role, task.model):
                task = replace(task, role=role, model=model)
    key_fits = key is None or len(key) <= LARGEST_KEY
    if not objections and key_fits:
        return Submitted(_spoken(task), key_of(task) if key is None else key, home_partition, traceparent)
    clean = _without(task, objections)
    if key is None:
        key = key_of(clean)
    elif not key_fits:
        # It is in all records of the task, so that even a refusal must not repeat it.
        objections.append(("key", f"of the record must have at most {LARGEST_KEY} bytes", None))
        key = b"k:" + digest([key])[:32].encode()
    field, must_be, _ = objections[0]
    more = f" ({len(objections)} fields are invalid)" if len(objections) > 1 else ""
    failure = Failure(code=INVALID_REQUEST, message=f"{field} {must_be}{more}")
    return Submitted(clean, key, home_partition, traceparent, refused=failure)


def admitted_cancellation(cancellation: TaskCancelled, now: int) -> Cancelled:
    """The event of a request to cancel. Raises Inadmissible."""
    said = cancellation
    if not is_task_id(said.task_id):
        raise Inadmissible("task_id cannot be the id of a task")
    if not is_tenant(said.tenant):
        raise Inadmissible("tenant cannot be a tenant")
    if not _optional_name(said.requested_by):
        raise Inadmissible(f"requested_by {_OPTIONAL_NAME}")
    if not is_text(said.reason):
        raise Inadmissible(f"reason {_TEXT}")
    if not is_time(said.requested_at, now):
        raise Inadmissible(f"requested_at {_TIME}")
    if said.home_partition is not None and not 0 <= said.home_partition < MOST_PARTITIONS:
        raise Inadmissible("home_partition cannot be a partition")
    return Cancelled(said)


def event_id_of(found: str | None, otherwise: str) -> str:
    """The event's id from its header, or another name if there is none that could be one."""
    return found if found is not None and is_name(found, LONGEST_EVENT_ID) else otherwise


def key_of(task: TaskSubmitted) -> bytes:
    """The route key of a task whose record has no key."""
    messages = keyed_content(task.messages, task.options)
    return route_key(
        tenant=task.tenant, session=task.session, role=task.role, model=task.model, messages=messages
    ).encode()


def _objections(task: TaskSubmitted, now: int) -> Iterator[_Objection]:
    if not is_tenant(task.tenant):
        yield "tenant", "must have 1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first", ""
    if not _optional_name(task.user):
        yield "user", _OPTIONAL_NAME, ""
    if not is_name(task.kind):
        yield "kind", _NAME, "chat"
    for name in ("key_id", "role", "model", "preferred_provider", "session", "subject"):
        value = getattr(task, name)
        if value is not None and not is_name(value):
            yield name, _NAME, None
    yield from _labels(task)
    if task.operation is ModelOperation.CHAT:
        yield from _messages(task.messages)
    elif task.operation is ModelOperation.EMBED:
        for path, must_be in embed_objections(task):
            yield path, must_be, None
    yield from _sampling(task.sampling)
    if task.options is not None:
        for path, must_be in options_objections(task.options):
            yield f"options.{path}", must_be, None
    if task.routing is not None:
        for path, must_be in routing_objections(task.routing):
            yield f"routing.{path}", must_be, None
    budget, deadline, partition = task.budget_nanodollars, task.deadline_at, task.reply_partition
    if budget is not None and not 0 <= budget <= MOST_BUDGET_DOLLARS * NANODOLLARS_IN_A_DOLLAR:
        yield "budget_nanodollars", f"must be from 0 to {MOST_BUDGET_DOLLARS} dollars", None
    if deadline is not None and not is_deadline(deadline, now):
        yield "deadline_at", "must be in milliseconds since the epoch, at most 30 days ahead", None
    if partition is not None and not 0 <= partition < MOST_PARTITIONS:
        yield "reply_partition", "must be a partition of tasks.replies", None
    if not is_time(task.submitted_at, now):
        yield "submitted_at", _TIME, now


def _labels(task: TaskSubmitted) -> Iterator[_Objection]:
    labels = task.labels
    if not labels:
        return
    if len(labels) > MOST_LABELS:
        yield "labels", f"must be at most {MOST_LABELS}", {}
    elif not all(is_name(name) for name in labels):
        yield "labels", f"hold a name that is none: it {_NAME}", {}
    elif not all(is_text(value) for value in labels.values()):
        yield "labels", f"hold a value that is none: it {_TEXT}", {}


def _messages(messages: tuple[Message, ...]) -> Iterator[_Objection]:
    if not any(says_something(message) for message in messages):
        yield "messages", "must hold at least one message with a text", ()
    elif len(messages) > MOST_MESSAGES:
        yield "messages", f"must be at most {MOST_MESSAGES}", ()
    elif messages_and_parts(messages) > MOST_MESSAGES_AND_PARTS:
        # With a few more, the journal entry of such a task could be written and not be read at the next takeover.
        yield "messages", f"must be at most {MOST_MESSAGES_AND_PARTS} together with their parts", ()
    else:
        for index, message in enumerate(messages):
            if message.role not in SPEAKERS:
                yield f"messages.{index}.role", f"must be one of {', '.join(SPEAKERS)}", None
                return
            if not is_name(message.content.cipher):
                yield f"messages.{index}.content.cipher", _NAME, None
                return
            for path, must_be in message_objections(message):
                yield f"messages.{index}.{path}", must_be, None
                return


def _sampling(sampling: Sampling) -> Iterator[_Objection]:
    checks: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
        ("max_output_tokens", f"must be from 1 to {MOST_OUTPUT_TOKENS}", lambda n: 1 <= n <= MOST_OUTPUT_TOKENS),
        ("temperature", f"must be from 0 to {HIGHEST_TEMPERATURE:g}", lambda n: _within(n, HIGHEST_TEMPERATURE)),
        ("top_p", "must be from 0 to 1", lambda n: _within(n, 1.0)),
        ("stop", f"must be at most {MOST_STOPS}, each of 1 to {LONGEST_STOP} characters", _stops),
    )
    for name, must_be, holds in checks:
        value = getattr(sampling, name)
        if value is not None and not holds(value):
            yield f"sampling.{name}", must_be, None


def _within(number: float, highest: float) -> bool:
    return math.isfinite(number) and 0 <= number <= highest


def _stops(stop: tuple[str, ...]) -> bool:
    return len(stop) <= MOST_STOPS and all(0 < len(text) <= LONGEST_STOP for text in stop)


def _optional_name(text: str) -> bool:
    return len(text) <= LONGEST_NAME and matches(OPTIONAL_NAME_PATTERN, text)


def _without(task: TaskSubmitted, objections: list[_Objection]) -> TaskSubmitted:
    # Nothing is asked of a model, so that the conversation and its parameters are of no use either.
    fields: dict[str, Any] = {path: instead for path, _, instead in objections if "." not in path}
    return replace(task, **{**fields, "messages": (), "sampling": Sampling(), "options": None, "routing": None})


def _spoken(task: TaskSubmitted) -> TaskSubmitted:
    """`developer` is another word for `system`, as over HTTP."""
    if not any(message.role == "developer" for message in task.messages):
        return task
    messages = [replace(m, role="system") if m.role == "developer" else m for m in task.messages]
    return replace(task, messages=tuple(messages))
