"""Why a call of a model failed, classified by what the caller must do.

Messages contain the provider, the status and a cause, never the prompt or the answer, so they may be logged.
"""

from __future__ import annotations

from typing import Literal

from headrace_models.ports import CallUsage

RetryCode = Literal["rate_limited", "overloaded", "timeout", "unreachable", "connection_lost", "provider_error"]
OtherCode = Literal["not_authorised", "quota_exhausted", "model_missing", "model_does_not_fit", "context_too_long"]
BadCode = Literal["invalid_request"]


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
    """The same call may succeed there later: wait `after_seconds` (None if the provider did not name a delay)."""

    def __init__(
        self,
        code: RetryCode,
        message: str,
        *,
        provider: str,
        status: int | None = None,
        usage: CallUsage | None = None,
        after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message, provider=provider, status=status, usage=usage)
        self.after_seconds = after_seconds


class TryAnotherProvider(ProviderError):
    """This endpoint cannot run the call, another may: model missing, not authorised, no credit, no capacity."""

    def __init__(
        self, code: OtherCode, message: str, *, provider: str, status: int | None = None, usage: CallUsage | None = None
    ) -> None:
        super().__init__(code, message, provider=provider, status=status, usage=usage)


class BadRequest(ProviderError):
    """The call itself is invalid and would fail everywhere: do not retry."""

    def __init__(
        self, code: BadCode, message: str, *, provider: str, status: int | None = None, usage: CallUsage | None = None
    ) -> None:
        super().__init__(code, message, provider=provider, status=status, usage=usage)


def from_status(
    status: int,
    *,
    provider: str,
    kind: str = "",
    after_seconds: float | None = None,
    usage: CallUsage | None = None,
) -> ProviderError:
    """The error for an HTTP status that has the same meaning for every provider.

    `kind` is the provider's own stable name of the cause (`insufficient_quota`), not its text.
    """
    said = f"{provider} answered {status}" + (f" ({kind})" if kind else "")
    if kind in _NO_CREDIT or status == 402:
        return TryAnotherProvider(
            "quota_exhausted",
            f"{said}: its quota or credit is used up; raise it there",
            provider=provider,
            status=status,
            usage=usage,
        )
    if kind in _TOO_LONG or status == 413:
        return TryAnotherProvider(
            "context_too_long",
            f"{said}: the conversation is longer than the model takes",
            provider=provider,
            status=status,
            usage=usage,
        )
    if status in (401, 403):
        return TryAnotherProvider(
            "not_authorised",
            f"{said}: it does not accept the API key; check the key's variable",
            provider=provider,
            status=status,
            usage=usage,
        )
    if status == 404:
        return TryAnotherProvider(
            "model_missing",
            f"{said}: it does not have this model",
            provider=provider,
            status=status,
            usage=usage,
        )
    if status == 429:
        return RetrySameProvider(
            "rate_limited",
            f"{said}: too many requests",
            provider=provider,
            status=status,
            usage=usage,
            after_seconds=after_seconds,
        )
    if status in (408, 504):
        return RetrySameProvider(
            "timeout", f"{said}: it took too long", provider=provider, status=status, usage=usage,
            after_seconds=after_seconds,
        )  # fmt: skip
    if status in (498, 503, 529):
        return RetrySameProvider(
            "overloaded", f"{said}: it has no capacity now", provider=provider, status=status, usage=usage,
            after_seconds=after_seconds,
        )  # fmt: skip
    if 400 <= status < 500 and status not in (409, 425, 499):
        return BadRequest(
            "invalid_request", f"{said}: it does not accept the request", provider=provider, status=status, usage=usage
        )
    return RetrySameProvider(
        "provider_error", f"{said}: it failed", provider=provider, status=status, usage=usage,
        after_seconds=after_seconds,
    )  # fmt: skip


_NO_CREDIT = frozenset({"insufficient_quota", "billing_error", "billing_not_active", "blocked_api_access"})
_TOO_LONG = frozenset({"context_length_exceeded", "request_too_large", "model_context_window_exceeded"})


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds in `retry-after-ms` or `retry-after` (lower-case names); None when absent or a date."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is not None:
            try:
                seconds = float(text) / divisor
            except ValueError:
                continue
            if 0 <= seconds < float("inf"):
                return seconds
    return None
