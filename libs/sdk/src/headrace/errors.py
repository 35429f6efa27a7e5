"""Errors of the client, named by what their receiver must do.

Every message says what is wrong, where, and what to do next. None holds a prompt, an answer or a key.
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
    """Look whether the service runs, then try again: it did not answer, or said that it cannot work now."""


class RetryLater(HeadraceError):
    """Wait, then send the same again.

    Attributes:
        after_seconds: How long to wait, as the service asked.
    """

    def __init__(self, message: str, after_seconds: float) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class RequestError(HeadraceError):
    """Base of errors where the service understood who asked what, and refused.

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
    """Mend the request: it can never succeed as it is. `fields` names what is wrong where the service said so."""

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
    """Look for another id: there is nothing of this name that the key may see."""


class Conflict(RequestError):
    """Look at what is there: the request contradicts it, such as other content under the same Idempotency-Key."""


class OverBudget(RequestError):
    """Raise the budget or wait for its next period: the tenant may not spend what this would cost."""


class ServiceFailed(RequestError):
    """Report it with the request id in the message: the service failed in a way that nobody foresaw."""


class NotUnderstood(HeadraceError):
    """Compare the versions of client and service, and what stands between them: the answer was not of the API."""


class NoAnswer(HeadraceError):
    """Look at the task: it ended without an answer (failed, expired, cancelled), and says why."""

    def __init__(self, task: Task) -> None:
        failure = task.failure
        why = f"{failure.code}: {failure.message}" if failure is not None else "no reason was given"
        super().__init__(f"task {task.id} {task.status}: {why}")
        self.task = task


class NotYet(HeadraceError):
    """Wait longer or cancel: the task had not ended when the time given was over.

    Attributes:
        task_id: The task; it goes on.
    """

    def __init__(self, task_id: str, waited_seconds: float) -> None:
        super().__init__(f"task {task_id} had not ended after {waited_seconds:g} s; it goes on, and can be waited for")
        self.task_id = task_id
