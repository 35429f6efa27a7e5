"""Errors of the client, named after what the caller must do.

Every message says what is wrong, where, and what to do next. None contains a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from headrace.results import Task
    from headrace.tool_loop import ToolStep


class HeadraceError(Exception):
    """Base of all errors of this package."""


class Misconfigured(HeadraceError):
    """Set the address or key that is missing or malformed; the message names the variable."""


class Unavailable(HeadraceError):
    """Check whether the service runs, then try again: it did not answer, or reported that it cannot work now."""


class RetryLater(HeadraceError):
    """Wait, then send the same request again.

    Attributes:
        after_seconds: How long to wait, as the service asked.
    """

    def __init__(self, message: str, after_seconds: float) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class RequestError(HeadraceError):
    """Base of errors where the service understood the request, and refused it.

    Attributes:
        status: HTTP status; of a task that was accepted and failed, the one that stands for its failure.
        kind: Stable name of the problem, such as idempotency-conflict, or empty; of a task, its failure code.
        extra: Further members of the problem document.
    """

    def __init__(self, message: str, *, status: int, kind: str = "", extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.extra: Mapping[str, Any] = extra or {}


class RequestInvalid(RequestError):
    """Correct the request: it can never succeed, being invalid, or below what the preferences demand. `fields` names
    what is wrong if the service said so."""

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """Pairs of a field and what is wrong with it."""
        entries = self.extra.get("errors", ())
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            return ()
        return tuple(
            (str(entry.get("field", "")), str(entry.get("message", ""))) for entry in entries if isinstance(entry, dict)
        )


class NotAllowed(RequestError):
    """Use another API key: this one is missing, unknown, revoked, or lacks the scope."""


class NotFound(RequestError):
    """Use another id: nothing with this name is visible to the key."""


class Conflict(RequestError):
    """Check the current state: the request contradicts it, for example other content with the same Idempotency-Key."""


class OverBudget(RequestError):
    """Raise the budget or wait for its next period: the tenant may not spend what this would cost."""


class ServiceFailed(RequestError):
    """Report it with the request id in the message: the service failed unexpectedly."""


class NotUnderstood(HeadraceError):
    """Compare the versions of client and service, and check proxies between them: the answer was not of the API."""


class NoAnswer(HeadraceError):
    """Inspect the task: it ended without an answer (failed, expired, cancelled), and says why.

    Where its failure is of a kind that another error of this module names, it is of that class as well: a task over its
    budget raises an error that is both NoAnswer and OverBudget.
    """

    def __init__(self, task: Task, message: str | None = None) -> None:
        failure = task.failure
        why = f"{failure.code}: {failure.message}" if failure is not None else "no reason was given"
        Exception.__init__(self, message or f"task {task.id} {task.status}: {why}")
        self.task = task


class AnswerInvalid(NoAnswer):
    """Try again, another model, a simpler schema, or more output tokens: the answer is not of the form asked for."""

    def __init__(self, task: Task, why: str | None = None) -> None:
        # A task that failed for it says itself what does not fit.
        told = None if why is None else (
            f"the answer of task {task.id} ({task.provider}/{task.model}) does not fit the schema: {why}"
        )  # fmt: skip
        super().__init__(task, told)


class Declined(NoAnswer):
    """Change the request, or accept it: the model declined to answer. `reason` has its words."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            task,
            f"the model {task.provider}/{task.model} declined to answer task {task.id}: change what is asked of it; "
            "`reason` has its words",
        )

    @property
    def reason(self) -> str:
        """What the model said instead of answering."""
        message = self.task.message
        return (message.refusal if message is not None else None) or self.task.answer or ""


class TooManyRounds(HeadraceError):
    """Allow more rounds, or give the model less to do: it still called tools after the last one.

    Attributes:
        steps: What was done in each round.
    """

    def __init__(self, steps: Sequence[ToolStep]) -> None:
        rounds = f"{len(steps)} round{'s' if len(steps) != 1 else ''}"
        super().__init__(f"the model still called tools after {rounds}: raise most_rounds, or divide the work")
        self.steps = tuple(steps)


class NotYet(HeadraceError):
    """Wait longer or cancel: the task had not ended within the given time.

    Attributes:
        task_id: The task; it continues.
    """

    def __init__(self, task_id: str, waited_seconds: float) -> None:
        super().__init__(
            f"task {task_id} had not ended after {waited_seconds:g} s; it continues, so you can wait again"
        )
        self.task_id = task_id


class _EndedTask(NoAnswer):
    """A task whose failure has a class of its own; with the attributes that this class promises."""

    def __init__(self, task: Task, status: int) -> None:
        super().__init__(task)
        self.status = status
        self.kind = task.failure.code if task.failure is not None else ""
        self.extra: Mapping[str, Any] = {}
        self.after_seconds = _PAUSE_SECONDS


class TaskOverBudget(_EndedTask, OverBudget):
    """OverBudget, for a task that was accepted."""


class TaskRetryLater(_EndedTask, RetryLater):
    """RetryLater, for a task that was accepted. It has ended: to try again is a new task."""


class TaskInvalid(_EndedTask, RequestInvalid):
    """RequestInvalid, for a task that was accepted."""


class TaskTargetUnknown(_EndedTask, NotFound):
    """NotFound, for a task that was accepted, and names a role or model that is not there."""


_PAUSE_SECONDS: Final = 5.0
"""Before another try, where nothing says how long."""

FAILURES: Final[Mapping[str, tuple[type[_EndedTask], int]]] = {
    "over_budget": (TaskOverBudget, 402),
    **dict.fromkeys(("too_many_live_tasks",), (TaskRetryLater, 429)),
    **dict.fromkeys(
        (
            "no_capacity", "no_local_capacity", "overloaded", "rate_limited", "unreachable", "switched_off",
            "tenant_switched_off", "no_other_node",
        ), (TaskRetryLater, 503)
    ),
    **dict.fromkeys(("unknown_role", "unknown_model"), (TaskTargetUnknown, 404)),
    **dict.fromkeys(("privacy", "no_consent", "mode", "below_floor"), (TaskInvalid, 403)),
    **dict.fromkeys(
        (
            "contradiction", "context_too_small", "context_too_long", "incapable", "url_not_public", "invalid_request",
            "request_rejected", "no_research", "no_query", "too_many_queries", "not_in_only", "ignored",
            "over_max_price", "too_slow", "data_rules", "parameters_not_taken", "no_fallbacks", "no_cascade",
            "no_ensemble", "cascade_and_ensemble", "not_for_several_models",
        ),
        (TaskInvalid, 400),
    ),
    "record_too_large": (TaskInvalid, 413),
    "answer_too_large": (TaskInvalid, 413),
}  # fmt: skip
"""Failure codes of tasks with a class of their own, and the HTTP status that stands for them."""


def no_answer(task: Task) -> NoAnswer:
    """The error for a task that ended without an answer."""
    code = task.failure.code if task.failure is not None else ""
    if code == "answer_does_not_fit":
        return AnswerInvalid(task)
    if task.status == "failed" and code in FAILURES:
        kind, status = FAILURES[code]
        return kind(task, status)
    return NoAnswer(task)
