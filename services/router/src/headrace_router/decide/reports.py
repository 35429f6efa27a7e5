"""What a worker reports of an attempt, as far as it can be believed.

The cloud worker has a topic of its own, and is believed about attempts that it was given; a local worker about all: it
is trusted with all content, and its topic had the outcomes of cloud attempts before there were two. A worker repeats
what providers say. The router's own record of the attempt names who was asked; what the report adds is taken within
bounds, and what cannot be is as if unsaid.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from headrace_contracts.cargo import are_vectors
from headrace_contracts.events import (
    AttemptFinished,
    AttemptState,
    Content,
    Failure,
    LostExecution,
    ModelOperation,
    Outcome,
    PartKind,
    Place,
    TaskSubmitted,
    Usage,
)
from headrace_contracts.frozen import changed
from headrace_contracts.limits import LONGEST_NAME
from headrace_models.prices import PriceBook
from headrace_models.upstream.values import MOST_TOKENS, count

from headrace_router.decide.costs import cost

ATTEMPT_TIMEOUT: Final = "attempt_timeout"
"""Code of an attempt that the router abandoned; its usage is not known."""
SITE_SILENT: Final = "site_silent"
"""Code of an attempt that the router has taken back, as no worker of its site reports any more."""
ANSWERED_REMOTELY: Final = "answered_remotely"
"""Code of an attempt whose node had another host make the answer: content has left to there."""
TOO_LITTLE_TIME: Final = "too_little_time"
"""Code of an attempt that was not begun, as its model usually takes longer than there was time."""
EMPTY_ANSWER: Final = "empty_answer"
INVALID_VECTORS: Final = "invalid_vectors"
UNASKED_CANCELLATION: Final = "unasked_cancellation"
"""Code of an attempt that was stopped though its task was not cancelled."""

LONGEST_CODE: Final = 64
LONGEST_MESSAGE: Final = 1000
"""Longest strings taken from a report, in characters; names have the length of all names."""
LONGEST_WAIT_MS: Final = 86_400_000
"""The longest wait that a provider can ask for, in milliseconds."""
LONGEST_RUN_MS: Final = 30 * 86_400_000.0
"""The longest time that a model can have taken, in milliseconds: a task's longest deadline."""

MOST_LOST: Final = 20
"""So many lost executions are taken from a report."""

_AFTER_A_TRY: Final = frozenset(
    {ANSWERED_REMOTELY, EMPTY_ANSWER, INVALID_VECTORS, "worker_error", "report_unencodable"}
)
"""Codes of ends that count as a try whatever else their report says: the first three follow an answer, and a defect of
a worker would be the same each time."""
_IN_VAIN: Final = frozenset({ATTEMPT_TIMEOUT, "timeout", "deadline_passed", "connection_lost", EMPTY_ANSWER,
                             "unknown_finish"})  # fmt: skip

_COUNTS: Final = tuple(field.name for field in fields(Usage))


def may_report(worker: Place, sent: AttemptState) -> bool:
    """Whether a worker of this kind can know how an attempt has ended."""
    return worker is Place.LOCAL or sent.place is Place.CLOUD


def believed(sent: AttemptState, said: AttemptFinished, task: TaskSubmitted) -> AttemptFinished:
    """A report with its strings and numbers bounded, the provider taken from our own record, and an answer without a
    text, or without the vectors that were asked for, taken as the failure that it is. So is a cancellation: no task
    that goes on was cancelled. Its usage is left to `close`."""
    failure = said.failure
    if failure is not None:
        failure = Failure(
            code=_printable(failure.code, LONGEST_CODE) or str(said.outcome),
            message=_printable(failure.message, LONGEST_MESSAGE),
            retry_after_ms=_wait(failure.retry_after_ms),
        )
    # Of an execution only: an attempt that is reported was not lost.
    outcome = Outcome.FAILED_RETRYABLE if said.outcome is Outcome.LOST else said.outcome
    if failure is not None and failure.code == ANSWERED_REMOTELY and outcome is not Outcome.REFUSED:
        outcome = Outcome.FAILED_PERMANENT
    elif outcome is Outcome.ANSWERED and task.operation is ModelOperation.EMBED:
        if not are_vectors(said.embeddings, 0 if task.options is None else len(task.options.inputs)):
            outcome = Outcome.FAILED_RETRYABLE
            failure = Failure(code=INVALID_VECTORS, message="the worker reported other vectors than were asked for")
    elif outcome is Outcome.ANSWERED and not (says_something(said.content) or _more_than_text(said)):
        outcome = Outcome.FAILED_RETRYABLE
        failure = Failure(code=EMPTY_ANSWER, message="the worker reported an answer without a text")
    elif outcome is Outcome.CANCELLED:
        outcome = Outcome.FAILED_RETRYABLE
        failure = Failure(code=UNASKED_CANCELLATION, message="the worker stopped it, though its task goes on")
    believable: dict[str, Any] = {
        "outcome": outcome,
        "failure": failure,
        "embeddings": said.embeddings if task.operation is ModelOperation.EMBED else (),
        "finish_reason": _printable(said.finish_reason or "", LONGEST_CODE) or None,
        "provider": sent.provider,
        "model": _printable(said.model, LONGEST_NAME) or sent.model,
        "node": _printable(said.node or "", LONGEST_NAME) or None,
        "model_ms": said.model_ms if 0 < said.model_ms <= LONGEST_RUN_MS else 0.0,
        "lost": tuple(map(_named, said.lost[:MOST_LOST])) if sent.place is Place.CLOUD else (),
    }
    # Most reports are believed as they are.
    is_so = all(getattr(said, name) == value for name, value in believable.items())
    return said if is_so else changed(said, **believable)


def close(sent: AttemptState, said: AttemptFinished, book: PriceBook) -> AttemptState:
    """The record of an attempt after its end. If its usage cannot be true, it costs what it may have cost at most."""
    usage = _plausible(said.usage)
    spent = cost(book, sent.provider, sent.model, usage, batch=said.batch)
    if usage != said.usage:
        spent = max(spent, sent.worst_case_nanodollars)
    return changed(
        sent,
        outcome=said.outcome,
        failure=said.failure,
        usage=usage,
        cost_nanodollars=spent,
        # What each may have cost is our own figure, not the report's.
        possibly_billed_nanodollars=len(said.lost) * sent.worst_case_nanodollars,
        asked=_may_have_asked(said),
    )


def _may_have_asked(said: AttemptFinished) -> bool:
    """Whether a model may have been asked. That none was is believed where nothing in the report contradicts it: a
    worker that lies wins an attempt that costs nothing and comes after a delay, until the deadline."""
    asked_nobody = (
        said.outcome in (Outcome.FAILED_RETRYABLE, Outcome.FAILED_PERMANENT, Outcome.EXPIRED)
        and said.node is None
        and said.usage == Usage()
        and not said.lost
        and said.model_ms == 0.0
        and said.failure is not None
        and said.failure.code not in _AFTER_A_TRY
    )
    return not asked_nobody


def came_too_late(attempt: AttemptState) -> bool:
    """Whether an attempt was not begun for lack of time."""
    return not attempt.asked and attempt.failure is not None and attempt.failure.code == TOO_LITTLE_TIME


def given_up(attempt: AttemptState) -> bool:
    """Whether the router stopped waiting for an attempt that may still be running."""
    return attempt.failure is not None and attempt.failure.code in (ATTEMPT_TIMEOUT, SITE_SILENT)


def in_vain(attempt: AttemptState) -> bool:
    """Whether an attempt took its time, or an answer, and gave nothing. There is no reason to expect more of the same
    model soon, so every other candidate comes first."""
    if attempt.outcome in (None, Outcome.ANSWERED, Outcome.REFUSED) or not attempt.asked:
        return False
    return attempt.outcome is Outcome.EXPIRED or (attempt.failure is not None and attempt.failure.code in _IN_VAIN)


def says_something(content: Content | None) -> bool:
    """Whether an answer has a text. What is sealed cannot be looked into and counts if there is any of it."""
    if content is None:
        return False
    return bool(content.data.strip() if content.cipher == "none" else content.data)


def _more_than_text(said: AttemptFinished) -> bool:
    """Whether an answer without a text is one: it calls tools, or was cut off."""
    calls = any(part.kind is PartKind.TOOL_CALL for choice in said.choices for part in choice.parts)
    return calls or (bool(said.choices) and said.finish_reason == "length")


def _plausible(usage: Usage) -> Usage:
    counts = [getattr(usage, name) for name in _COUNTS]
    for said in counts:
        if type(said) is not int or not 0 <= said <= MOST_TOKENS:
            break
    else:
        return usage
    return Usage(**{name: count(said) or 0 for name, said in zip(_COUNTS, counts, strict=True)})


def _named(lost: LostExecution) -> LostExecution:
    return replace(
        lost, execution_id=_printable(lost.execution_id, LONGEST_NAME), worker=_printable(lost.worker, LONGEST_NAME)
    )


def _wait(asked_ms: int | None) -> int | None:
    return None if asked_ms is None or asked_ms < 0 else min(asked_ms, LONGEST_WAIT_MS)


def _printable(text: str, longest: int) -> str:
    if len(text) <= longest and text.isprintable():
        return text
    return "".join(character for character in text[:longest] if character.isprintable())


def expired(attempt: AttemptState, message: str) -> AttemptState:
    """An attempt whose time is over."""
    return replace(attempt, outcome=Outcome.EXPIRED, failure=Failure(code=ATTEMPT_TIMEOUT, message=message))


def timed_out(attempt: AttemptState, now: int) -> AttemptState:
    """An attempt that has given no result in its time."""
    return expired(attempt, f"no result after {now - attempt.dispatched_at} ms")


def undelivered(attempt: AttemptState, failure: Failure) -> AttemptState:
    """An attempt that no worker will see: nothing was sent, so nothing was spent."""
    return replace(attempt, outcome=Outcome.FAILED_PERMANENT, failure=failure, asked=False)
