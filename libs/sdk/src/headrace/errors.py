"""Errors of the client, named after what the caller must do.

Every message says what is wrong, where, and what to do next. None contains a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.results import Task


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
        status: HTTP status.
        kind: Stable name of the problem, such as idempotency-conflict, or empty.
        extra: Further members of the problem document.
    """

    def __init__(self, message: str, *, status: int, kind: str = "", extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.extra: Mapping[str, Any] = extra or {}


class RequestInvalid(RequestError):
    """Correct the request: it can never succeed. `fields` names what is wrong if the service said so."""

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
    """Inspect the task: it ended without an answer (failed, expired, cancelled), and says why."""

    def __init__(self, task: Task) -> None:
        failure = task.failure
        why = f"{failure.code}: {failure.message}" if failure is not None else "no reason was given"
        super().__init__(f"task {task.id} {task.status}: {why}")
        self.task = task


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
