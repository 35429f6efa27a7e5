"""How an attempt ended, as a pure function of what happened at the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from headrace_contracts import events
from headrace_contracts.content import ContentSealed, plain, text_of

from headrace_models.errors import BadRequest, ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import DEFAULT_MAX_OUTPUT_TOKENS, ChatRequest, ChatResult, Message, Role, Usage

DEADLINE_PASSED: Final = "deadline_passed"
NO_CAPACITY: Final = "no_capacity"
CONTENT_SEALED: Final = "content_sealed"
INVALID_REQUEST: Final = "invalid_request"
ANSWER_TOO_LARGE: Final = "answer_too_large"
WORKER_ERROR: Final = "worker_error"
CANCELLED: Final = "cancelled"

_NOTHING_USED: Final = Usage()
# Tools speak through the caller here: what they returned is part of what the model is told.
_ROLES: Final[dict[str, Role]] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "user"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOutcome:
    """How one execution ended.

    Attributes:
        asked: Whether a model was asked, and so may have consumed something.
        text: The answer, for answered and refused.
        model: The model as its provider names it, empty to keep the name that was asked for.
        first_output_ms, model_ms: From the start of the call to the first text, and to its end.
    """

    outcome: events.Outcome
    asked: bool = True
    text: str | None = field(default=None, repr=False)
    finish_reason: str | None = None
    failure: events.Failure | None = None
    usage: Usage = _NOTHING_USED
    model: str = ""
    simulated: bool = False
    first_output_ms: float | None = None
    model_ms: float = 0.0


def from_result(result: ChatResult) -> ExecutionOutcome:
    """A finished call. A refusal is an answer too, and never routed around."""
    return ExecutionOutcome(
        outcome=events.Outcome.REFUSED if result.refused else events.Outcome.ANSWERED,
        text=result.text,
        finish_reason=result.finish_reason,
        usage=result.usage,
        model=result.model,
        simulated=result.simulated,
        first_output_ms=result.first_token_ms,
        model_ms=result.total_ms,
    )


def from_error(error: ProviderError, *, model_ms: float, now_ms: int, deadline_at: int | None) -> ExecutionOutcome:
    """A call that gave no answer. Whether and where to try again is not decided here, only how lasting it is."""
    if (
        isinstance(error, RetrySameProvider)
        and error.code == "timeout"
        and deadline_at is not None
        and now_ms >= deadline_at
    ):
        return expired("the deadline passed while the model was answering", usage=error.usage, model_ms=model_ms)
    match error:
        case RetrySameProvider(after_seconds=seconds):
            outcome = events.Outcome.FAILED_RETRYABLE
            wait_ms = None if seconds is None else round(seconds * 1000)
        case TryAnotherProvider() | BadRequest():
            outcome, wait_ms = events.Outcome.FAILED_PERMANENT, None
        case _:
            outcome, wait_ms = events.Outcome.FAILED_RETRYABLE, None
    failure = events.Failure(code=error.code, message=error.message, retry_after_ms=wait_ms)
    return ExecutionOutcome(outcome=outcome, failure=failure, usage=error.usage, model_ms=model_ms)


def expired(message: str, *, usage: Usage | None = None, model_ms: float = 0.0) -> ExecutionOutcome:
    """The answer is of no use any more. Without `usage` no model was asked."""
    return ExecutionOutcome(
        outcome=events.Outcome.EXPIRED,
        asked=usage is not None,
        failure=events.Failure(code=DEADLINE_PASSED, message=message),
        usage=usage or _NOTHING_USED,
        model_ms=model_ms,
    )


def cancelled(*, usage: Usage | None = None, model_ms: float = 0.0) -> ExecutionOutcome:
    """Nobody wants the answer any more. Without `usage` no model was asked."""
    return ExecutionOutcome(
        outcome=events.Outcome.CANCELLED,
        asked=usage is not None,
        failure=events.Failure(code=CANCELLED, message="the task was cancelled"),
        usage=usage or _NOTHING_USED,
        model_ms=model_ms,
    )


def not_asked(code: str, message: str, *, lasting: bool, retry_after_ms: int | None = None) -> ExecutionOutcome:
    """Given up before any model was asked; `lasting` when asking this endpoint again would end the same way."""
    outcome = events.Outcome.FAILED_PERMANENT if lasting else events.Outcome.FAILED_RETRYABLE
    failure = events.Failure(code=code, message=message, retry_after_ms=retry_after_ms)
    return ExecutionOutcome(outcome=outcome, asked=False, failure=failure)


def too_large(ended: ExecutionOutcome) -> ExecutionOutcome:
    """What to report when the answer itself is more than Kafka takes."""
    failure = events.Failure(code=ANSWER_TOO_LARGE, message="the answer is larger than a record may be")
    return ExecutionOutcome(
        outcome=events.Outcome.FAILED_PERMANENT,
        asked=ended.asked,
        failure=failure,
        usage=ended.usage,
        model=ended.model,
        simulated=ended.simulated,
        first_output_ms=ended.first_output_ms,
        model_ms=ended.model_ms,
    )


def seconds_left(deadline_at: int | None, now_ms: int) -> float | None:
    """Time until a deadline, not below 0; None without one."""
    return None if deadline_at is None else max(0.0, (deadline_at - now_ms) / 1000)


def call_of(request: events.AttemptRequested, timeout_seconds: float) -> ChatRequest | ExecutionOutcome:
    """The call of the model that an attempt asks for, or how it ends because there can be none."""
    try:
        messages = tuple(Message(_ROLES[message.role], text_of(message.content)) for message in request.messages)
    except KeyError as unknown:
        return not_asked(INVALID_REQUEST, f"a message has the unknown role {unknown}", lasting=True)
    except ContentSealed as sealed:
        return not_asked(CONTENT_SEALED, str(sealed), lasting=True)
    if not messages:
        return not_asked(INVALID_REQUEST, "the conversation is empty", lasting=True)
    sampling = request.sampling
    return ChatRequest(
        model=request.model,
        messages=messages,
        timeout_seconds=timeout_seconds,
        max_output_tokens=sampling.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=tuple(sampling.stop),
        seed=sampling.seed,
        json=sampling.json,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of an attempt.

    Attributes:
        worker: Instance that ran it.
        node: Node or provider that was asked, None where none was.
        queued_ms: From the router's decision to the start of the call.
    """

    execution_id: str
    worker: str
    node: str | None
    queued_ms: float
    finished_at: int


def finished_event(
    request: events.AttemptRequested, execution: Execution, ended: ExecutionOutcome
) -> events.AttemptFinished:
    """What the router is told."""
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
        failure=ended.failure,
        provider=request.provider,
        model=ended.model or request.model,
        node=execution.node,
        simulated=ended.simulated,
        usage=_usage(ended.usage),
        queued_ms=execution.queued_ms,
        first_output_ms=ended.first_output_ms,
        model_ms=ended.model_ms,
        finished_at=execution.finished_at,
    )


def usage_event(
    request: events.AttemptRequested, execution: Execution, ended: ExecutionOutcome, event_id: str
) -> events.UsageRecorded:
    """What the accountant is told, of failed executions as well."""
    return events.UsageRecorded(
        event_id=event_id,
        tenant=request.tenant,
        user=request.user,
        task_id=request.task_id,
        attempt_id=request.attempt_id,
        execution_id=execution.execution_id,
        kind=request.kind,
        role=request.role,
        session=request.session,
        subject=request.subject,
        provider=request.provider,
        # The name that was asked for: prices are listed by it, while answers may name a dated version.
        model=request.model,
        node=execution.node,
        simulated=ended.simulated,
        outcome=ended.outcome,
        usage=_usage(ended.usage),
        model_ms=ended.model_ms,
        recorded_at=execution.finished_at,
    )


def _usage(usage: Usage) -> events.Usage:
    return events.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        searches=usage.searches,
    )
