"""Why a call of a model failed, classified by what the caller must do.

Messages contain the provider, the status and a cause, never the prompt or the answer, so they may be logged.
"""

from __future__ import annotations

from typing import Literal

from headrace_models.ports import CallUsage

RetryCode = Literal[
    "rate_limited",
    "overloaded",
    "timeout",
    "unreachable",
    "connection_lost",
    "provider_error",
    "empty_answer",
    "unknown_finish",
    "invalid_tool_call",
    "tool_call_missing",
    "answer_does_not_fit",
    "invalid_vectors",
    "worker_error",
]
OtherCode = Literal[
    "not_authorised",
    "quota_exhausted",
    "model_missing",
    "model_does_not_fit",
    "context_too_long",
    "request_rejected",
    "output_blocked",
    "output_repeats",
    "redirected",
    "answer_too_large",
    "answered_remotely",
    "unsupported_operation",
    "output_limit",
]


class ProviderError(Exception):
    """A call that gave no answer; catch one of the subclasses to react, or this to count.

    `code` is stable and machine-readable; `status` is the HTTP status, None without one; `usage` is what the provider
    is known to have consumed before the failure.
    """

    def __init__(
        self, code: str, message: str, *, provider: str, status: int | None = None, usage: CallUsage | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.provider = provider
        self.status = status
        self.usage = usage if usage is not None else CallUsage()


class RetrySameProvider(ProviderError):
    """The same call may succeed there later: wait `after_seconds` (None if the provider did not name a delay).

    `sent` is whether any of the request may have left: not if there was no connection.
    """

    def __init__(
        self,
        code: RetryCode,
        message: str,
        *,
        provider: str,
        status: int | None = None,
        usage: CallUsage | None = None,
        after_seconds: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(code, message, provider=provider, status=status, usage=usage)
        self.after_seconds = after_seconds
        self.sent = sent


class TryAnotherProvider(ProviderError):
    """This endpoint cannot run the call, another may: model missing, not authorised, request or output rejected there.

    One provider's objection to a request says nothing about the others. What is wrong everywhere, intake has refused.
    """

    def __init__(
        self, code: OtherCode, message: str, *, provider: str, status: int | None = None, usage: CallUsage | None = None
    ) -> None:
        super().__init__(code, message, provider=provider, status=status, usage=usage)
