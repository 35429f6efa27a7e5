"""The outcome of an attempt, as a pure function of the call's result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Final

from headrace_contracts import events
from headrace_contracts.content import PLAIN, ContentSealed, plain
from headrace_contracts.headers import header

from headrace_models.answer import WholeAnswer
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, EmbedRequest, EmbedResult
from headrace_models.upstream.values import count
from headrace_models.worker.answers import choices_of
from headrace_models.worker.requests import WorkInvalid, chat_request, embed_request

DEADLINE_PASSED: Final = "deadline_passed"
TOO_LITTLE_TIME: Final = "too_little_time"
"""Not begun: its model usually takes longer than there is time."""
NO_CAPACITY: Final = "no_capacity"
CONTENT_SEALED: Final = "content_sealed"
UNSUPPORTED_OPERATION: Final = "unsupported_operation"
INVALID_REQUEST: Final = "invalid_request"
"""Wrong everywhere: intake lets no such task through, so another producer has written it."""
ANSWER_TOO_LARGE: Final = "answer_too_large"
WORKER_ERROR: Final = "worker_error"
REPORT_UNENCODABLE: Final = "report_unencodable"
UNREADABLE_WORK: Final = "unreadable_work"
CANCELLED: Final = "cancelled"
EXECUTION_LOST: Final = "execution_lost"
"""Not run again, as an earlier execution may have used up the task's budget."""

_NUMBER: Final = re.compile("[1-9][0-9]{0,5}")
_NOTHING_USED: Final = CallUsage()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOutcome:
    """The outcome of one execution.

    Attributes:
        asked: Whether a model was called, and so may have consumed something. The router counts no other as a try.
        text: The answer, for answered and refused.
        vectors: The answer, if it consists of vectors, each as the contract has it.
        model: The model as its provider names it; empty to keep the requested name.
        first_output_ms, model_ms: From the start of the call to the first text, and to its end.
        fits_schema: As in `ChatResult`.
    """

    outcome: events.Outcome
    asked: bool = True
    text: str | None = field(default=None, repr=False)
    finish_reason: str | None = None
    choices: tuple[WholeAnswer, ...] = field(default=(), repr=False)
    vectors: tuple[bytes, ...] = field(default=(), repr=False)
    failure: events.Failure | None = None
    usage: CallUsage = _NOTHING_USED
    model: str = ""
    simulated: bool = False
    first_output_ms: float | None = None
    model_ms: float = 0.0
    fits_schema: bool | None = None

    @property
    def has_answer(self) -> bool:
        """Whether there is anything in it that a failure has not."""
        return self.text is not None or bool(self.vectors)


def from_result(result: ChatResult | EmbedResult) -> ExecutionOutcome:
    """A finished call. A refusal is an answer too, and is never retried elsewhere."""
    if isinstance(result, EmbedResult):
        return ExecutionOutcome(
            outcome=events.Outcome.ANSWERED,
            finish_reason="stop",
            vectors=result.vectors,
            usage=result.usage,
            model=result.model,
            simulated=result.simulated,
            model_ms=result.total_ms,
        )
    return ExecutionOutcome(
        outcome=events.Outcome.REFUSED if result.refused else events.Outcome.ANSWERED,
        text=result.text,
        finish_reason=result.finish_reason,
        choices=result.choices,
        usage=result.usage,
        model=result.model,
        simulated=result.simulated,
        first_output_ms=result.first_token_ms,
        model_ms=result.total_ms,
        fits_schema=result.fits_schema,
    )


def nobody_asked(error: ProviderError) -> bool:
    """Whether no model has begun: there was no connection, or no room."""
    unsent = isinstance(error, RetrySameProvider) and not error.sent
    return (unsent or error.code == "overloaded") and error.usage == _NOTHING_USED


def from_error(
    error: ProviderError,
    *,
    model_ms: float,
    now_ms: int,
    deadline_at: int | None,
    used: CallUsage | None = None,
    asked_before: bool = False,
) -> ExecutionOutcome:
    """A call without an answer. The router decides about retries; this only says how lasting the failure is.

    Args:
        used: By all calls of the attempt together; that of this one if not given.
        asked_before: Whether an earlier call of the attempt asked a model.
    """
    used = error.usage if used is None else used
    if (
        isinstance(error, RetrySameProvider)
        and error.code == "timeout"
        and deadline_at is not None
        and now_ms >= deadline_at
    ):
        return expired("the deadline passed while the model was answering", usage=used, model_ms=model_ms)
    match error:
        case RetrySameProvider(after_seconds=seconds):
            outcome = events.Outcome.FAILED_RETRYABLE
            wait_ms = None if seconds is None else round(seconds * 1000)
        case TryAnotherProvider():
            outcome, wait_ms = events.Outcome.FAILED_PERMANENT, None
        case _:
            outcome, wait_ms = events.Outcome.FAILED_RETRYABLE, None
    failure = events.Failure(code=error.code, message=error.message, retry_after_ms=wait_ms)
    if nobody_asked(error) and not asked_before and used == _NOTHING_USED:
        return ExecutionOutcome(outcome=outcome, asked=False, failure=failure)
    return ExecutionOutcome(outcome=outcome, failure=failure, usage=used, model_ms=model_ms)


def expired(message: str, *, usage: CallUsage | None = None, model_ms: float = 0.0) -> ExecutionOutcome:
    """The deadline has passed. Without `usage`, no model was called."""
    return ExecutionOutcome(
        outcome=events.Outcome.EXPIRED,
        asked=usage is not None,
        failure=events.Failure(code=DEADLINE_PASSED, message=message),
        usage=usage or _NOTHING_USED,
        model_ms=model_ms,
    )


def too_late_to_begin(message: str) -> ExecutionOutcome:
    """No model was called: the call could not have ended before its deadline."""
    failure = events.Failure(code=TOO_LITTLE_TIME, message=message)
    return ExecutionOutcome(outcome=events.Outcome.EXPIRED, asked=False, failure=failure)


def cancelled(*, usage: CallUsage | None = None, model_ms: float = 0.0) -> ExecutionOutcome:
    """The task was cancelled. Without `usage`, no model was called."""
    return ExecutionOutcome(
        outcome=events.Outcome.CANCELLED,
        asked=usage is not None,
        failure=events.Failure(code=CANCELLED, message="the task was cancelled"),
        usage=usage or _NOTHING_USED,
        model_ms=model_ms,
    )


def failed(message: str, *, usage: CallUsage | None, model_ms: float) -> ExecutionOutcome:
    """The worker itself failed. Without `usage`, no model was called."""
    return ExecutionOutcome(
        outcome=events.Outcome.FAILED_RETRYABLE,
        asked=usage is not None,
        failure=events.Failure(code=WORKER_ERROR, message=message),
        usage=usage or _NOTHING_USED,
        model_ms=model_ms if usage is not None else 0.0,
    )


def not_asked(code: str, message: str, *, lasting: bool, retry_after_ms: int | None = None) -> ExecutionOutcome:
    """Ended before any model was called; `lasting` if asking this endpoint again would end the same way."""
    outcome = events.Outcome.FAILED_PERMANENT if lasting else events.Outcome.FAILED_RETRYABLE
    failure = events.Failure(code=code, message=message, retry_after_ms=retry_after_ms)
    return ExecutionOutcome(outcome=outcome, asked=False, failure=failure)


def switched_off(why: events.Failure) -> ExecutionOutcome:
    """An operator's decision: the router sends the task elsewhere, or lets it wait."""
    return not_asked(why.code, why.message, lasting=False)


def stopped(*, usage: CallUsage | None, model_ms: float) -> ExecutionOutcome:
    """Its worker gives it up, for another one to run the attempt again. Without `usage`, no model was called."""
    return replace(cancelled(usage=usage, model_ms=model_ms), failure=None)


def beyond_budget(lost: int) -> ExecutionOutcome:
    """Not run again: with what was lost it could cost more than its task may. The router may find a cheaper way."""
    message = f"{lost} earlier executions were lost and may have been billed: too little is left of the task's budget"
    return not_asked(EXECUTION_LOST, message, lasting=False)


def too_large(ended: ExecutionOutcome) -> ExecutionOutcome:
    """The outcome to report when the answer is larger than Kafka accepts."""
    failure = events.Failure(code=ANSWER_TOO_LARGE, message="the answer exceeds the size limit of a record")
    return replace(
        ended,
        outcome=events.Outcome.FAILED_PERMANENT,
        text=None,
        finish_reason=None,
        choices=(),
        vectors=(),
        failure=failure,
    )


def unencodable(ended: ExecutionOutcome) -> ExecutionOutcome:
    """The outcome to report when the schema cannot hold the true one: a failure that can be written in any case."""
    failure = events.Failure(code=REPORT_UNENCODABLE, message="the outcome cannot be written as a record")
    usable = all(count(one) is not None for one in astuple(ended.usage))
    return ExecutionOutcome(
        outcome=events.Outcome.FAILED_RETRYABLE,
        asked=ended.asked,
        failure=failure,
        usage=ended.usage if usable else _NOTHING_USED,
        simulated=ended.simulated is True,
    )


def seconds_left(deadline_at: int | None, now_ms: int) -> float | None:
    """Seconds until a deadline, not below 0; None without one."""
    return None if deadline_at is None else max(0.0, (deadline_at - now_ms) / 1000)


def call_of(
    request: events.AttemptRequested,
    timeout_seconds: float,
    *,
    first_token_seconds: float,
    between_tokens_seconds: float,
) -> ChatRequest | EmbedRequest | ExecutionOutcome:
    """The model call that an attempt asks for, or its outcome if there can be none."""
    if request.operation not in (events.ModelOperation.CHAT, events.ModelOperation.EMBED):
        message = f"this release cannot {request.operation}: the operation is not supported"
        return not_asked(UNSUPPORTED_OPERATION, message, lasting=True)
    try:
        if request.operation is events.ModelOperation.EMBED:
            return embed_request(request, timeout_seconds)
        return chat_request(
            request,
            timeout_seconds,
            first_token_seconds=first_token_seconds,
            between_tokens_seconds=between_tokens_seconds,
        )
    except WorkInvalid as invalid:
        return not_asked(INVALID_REQUEST, str(invalid), lasting=True)
    except ContentSealed as sealed:
        return not_asked(CONTENT_SEALED, str(sealed), lasting=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of an attempt.

    Attributes:
        worker: Instance that ran it.
        node: Node or provider that was called, None if none was.
        queued_ms: From the router's decision to the start of the call.
        batch: Whether it was part of a batch at its provider.
        lost: Earlier executions of the attempt that may have been billed.
    """

    execution_id: str
    worker: str
    node: str | None
    queued_ms: float
    finished_at: int
    batch: bool = False
    lost: tuple[events.LostExecution, ...] = ()


def finished_event(
    request: events.AttemptRequested, execution: Execution, ended: ExecutionOutcome
) -> events.AttemptFinished:
    """The event for the router."""
    return events.AttemptFinished(
        attempt_id=request.attempt_id,
        task_id=request.task_id,
        tenant=request.tenant,
        number=request.number,
        home_partition=request.home_partition,
        execution_id=execution.execution_id,
        worker=execution.worker,
        outcome=ended.outcome,
        content=None if ended.text is None else plain(ended.text),
        finish_reason=ended.finish_reason,
        choices=choices_of(ended.choices),
        embeddings=tuple(events.Content(cipher=PLAIN, data=vector) for vector in ended.vectors),
        failure=ended.failure,
        provider=request.provider,
        model=ended.model or request.model,
        node=execution.node,
        simulated=ended.simulated,
        usage=_usage(ended.usage),
        lost=execution.lost,
        queued_ms=execution.queued_ms,
        first_output_ms=ended.first_output_ms,
        model_ms=ended.model_ms,
        finished_at=execution.finished_at,
        batch=execution.batch,
        fits_schema=ended.fits_schema,
    )


def unreadable(
    headers: Iterable[tuple[str, bytes | None]], execution_id: str, worker: str, now_ms: int
) -> events.AttemptFinished | None:
    """The end of an attempt whose record cannot be read, by its headers; None if these name none."""
    headers = tuple(headers)
    attempt, task_id, tenant = (header(headers, name) for name in ("ce_id", "ce_subject", "ce_tenant"))
    of, _, number = (attempt or "").rpartition("/")
    if not attempt or not task_id or tenant is None or of != task_id or not _NUMBER.fullmatch(number):
        return None
    return events.AttemptFinished(
        attempt_id=attempt,
        task_id=task_id,
        tenant=tenant,
        number=int(number),
        home_partition=-1,
        execution_id=execution_id,
        worker=worker,
        outcome=events.Outcome.FAILED_PERMANENT,
        failure=events.Failure(code=UNREADABLE_WORK, message="the attempt could not be read"),
        provider="",
        model="",
        finished_at=now_ms,
    )


def usage_event(
    request: events.AttemptRequested, execution: Execution, ended: ExecutionOutcome, event_id: str
) -> events.UsageRecorded:
    """The event for the cost accountant, also for failed executions."""
    return usage_record(
        request,
        event_id=event_id,
        execution_id=execution.execution_id,
        node=execution.node,
        simulated=ended.simulated,
        outcome=ended.outcome,
        usage=_usage(ended.usage),
        model_ms=ended.model_ms,
        recorded_at=execution.finished_at,
        batch=execution.batch,
    )


def usage_record(
    request: events.AttemptRequested,
    *,
    event_id: str,
    execution_id: str,
    outcome: events.Outcome,
    usage: events.Usage,
    recorded_at: int,
    node: str | None = None,
    simulated: bool = False,
    model_ms: float = 0.0,
    possibly_billed_nanodollars: int = 0,
    batch: bool = False,
) -> events.UsageRecorded:
    """What an execution of an attempt has consumed, or may have."""
    return events.UsageRecorded(
        event_id=event_id,
        tenant=request.tenant,
        user=request.user,
        task_id=request.task_id,
        attempt_id=request.attempt_id,
        execution_id=execution_id,
        kind=request.kind,
        role=request.role,
        session=request.session,
        subject=request.subject,
        provider=request.provider,
        # The requested name: prices are listed by it, while answers may name a dated version.
        model=request.model,
        node=node,
        simulated=simulated,
        outcome=outcome,
        usage=usage,
        possibly_billed_nanodollars=possibly_billed_nanodollars,
        model_ms=model_ms,
        recorded_at=recorded_at,
        batch=batch,
    )


def _usage(usage: CallUsage) -> events.Usage:
    return events.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        searches=usage.searches,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        image_tokens=usage.image_tokens,
        audio_tokens=usage.audio_tokens,
    )
