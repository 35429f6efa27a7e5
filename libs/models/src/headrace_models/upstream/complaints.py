"""From what a provider called a failure to our error: one way, whether it came by status, in a stream, or in a body.

A complaint is judged by the provider's own name of the cause, else by words in its text, else by its status. Its text
may quote the prompt, so it is searched for known words and then dropped, but for sentences that cannot (`known_words`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from headrace_models.errors import OtherCode, ProviderError, RetryCode, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage
from headrace_models.upstream.known_words import known_words
from headrace_models.upstream.values import Unreadable, document, mapping, name, text

LONGEST_WAIT_SECONDS: Final = 86_400.0
"""A provider that asks for a longer wait gets this one; the router falls back long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a provider said instead of an answer.

    Attributes:
        status: HTTP status, of the response or named in the document; None without one.
        kinds: The provider's own names of the cause (`insufficient_quota`), the most specific first.
        text: Its words. Never shown or logged, but for those that `known_words` finds.
        after_seconds: The wait that it asks for.
    """

    status: int | None
    kinds: tuple[str, ...] = ()
    text: str = field(default="", repr=False)
    after_seconds: float | None = None


class Complained(Exception):
    """The provider answered with a complaint. Its text is not part of the message."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__("the provider complained")
        self.complaint = complaint


def complaint_in(said: object, *, status: int | None = None, after_seconds: float | None = None) -> Complaint | None:
    """The complaint in a JSON document; None if it is none, and `status` is none either.

    Known shapes: `{"error": {"type", "code", "message"}}`, `{"error": "text"}`, `{"object": "error", "message"}`,
    `{"type": "error", "error": {...}}`, `{"detail": ...}`, `{"message": ..., "code": ...}`.
    """
    document = mapping(said)
    error = document.get("error")
    if isinstance(error, str):
        error = {"message": error, **{key: document.get(key) for key in ("code", "type")}}
    elif not mapping(error) and (
        document.get("object") == "error" or document.get("type") == "error" or "detail" in document or status
    ):
        error = {**document, "message": _joined(document.get("message")) or _joined(document.get("detail"))}
    found = mapping(error)
    if not found:
        return None if status is None else Complaint(status=status, after_seconds=after_seconds)
    inner = mapping(found.get("metadata"))
    kinds = tuple(
        kind
        for value in (found.get("code"), found.get("type"), found.get("status"), inner.get("error_type"))
        if (kind := name(value))
    )
    return Complaint(
        status=status if status is not None else _status(found, document),
        kinds=kinds,
        text=_joined(found.get("message")) + " " + _joined(inner.get("raw")),
        after_seconds=after_seconds,
    )


def complaint_of(status: int, body: str, headers: Mapping[str, str], now: datetime) -> Complaint:
    """The complaint of a response that is no answer. `headers` by lower-case names."""
    after = retry_after(headers, now)
    try:
        said = document(body)
    except Unreadable:
        return Complaint(status=status, text=body, after_seconds=after)
    return complaint_in(said, status=status, after_seconds=after) or Complaint(status=status, after_seconds=after)


def error_of(complaint: Complaint, *, provider: str, usage: CallUsage | None = None) -> ProviderError:
    """Our error for a complaint; `provider` is the name to show."""
    code = _code(complaint)
    shown = f" ({complaint.kinds[0]})" if complaint.kinds else ""
    said = f"{provider} answered {complaint.status}{shown}" if complaint.status else f"{provider} failed{shown}"
    words = known_words(complaint.text)
    message = f"{said}: {_MEANING[code]}" + (f" ({words})" if words else "")
    if (later := _LATER.get(code)) is not None:
        return RetrySameProvider(
            later, message, provider=provider, status=complaint.status, usage=usage,
            after_seconds=complaint.after_seconds,
        )  # fmt: skip
    return TryAnotherProvider(cast("OtherCode", code), message, provider=provider, status=complaint.status, usage=usage)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds in `retry-after-ms` or `retry-after` (lower-case names), as a number or any date of RFC 9110, 5.6.7.

    A date counts from the response's own `date`, if it has one: the provider's clock need not agree with ours. From 0
    to LONGEST_WAIT_SECONDS; None if there is no such header, or nothing that it can mean.
    """
    for header, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(header, "").strip()
        seconds = _number(value, divisor) if value else None
        if seconds is None and value and divisor == 1.0 and (until := _date(value)) is not None:
            seconds = max(0.0, (until - (_date(headers.get("date", "")) or now)).total_seconds())
        if seconds is not None:
            return min(seconds, LONGEST_WAIT_SECONDS)
    return None


def _number(value: str, divisor: float) -> float | None:
    try:
        seconds = float(value) / divisor
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # HTTP dates are always in GMT; asctime's form does not say so.
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _joined(value: object) -> str:
    """A text, or a list of texts and of validation errors (`[{"msg": "…"}]`)."""
    if isinstance(value, list):
        return " ".join(part if isinstance(part, str) else text(mapping(part).get("msg")) for part in value)
    return text(value)


def _status(error: Mapping[str, Any], document: Mapping[str, Any]) -> int | None:
    """A status that a document names: errors inside a stream come after a 200."""
    for value in (error.get("code"), error.get("status"), error.get("status_code"), document.get("status_code")):
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _code(complaint: Complaint) -> RetryCode | OtherCode:
    for kind in complaint.kinds:
        if (by_name := _BY_KIND.get(kind.lower())) is not None:
            return by_name
    status, words = complaint.status, complaint.text.lower()
    for code, marks, statuses in _BY_WORDS:
        if (status is None or status in statuses) and any(mark in words for mark in marks):
            return code
    if status is not None and (by_status := _BY_STATUS.get(status)) is not None:
        return by_status
    for kind in complaint.kinds:
        if (by_type := _BY_TYPE.get(kind.lower())) is not None:
            return by_type
    if status is None:
        return "provider_error"
    if 300 <= status < 400:
        return "redirected"
    return "request_rejected" if 400 <= status < 500 else "provider_error"


_MEANING: Final[Mapping[RetryCode | OtherCode, str]] = {
    "rate_limited": "too many requests",
    "overloaded": "it has no capacity now",
    "timeout": "it took too long",
    "provider_error": "it failed",
    "not_authorised": "it does not accept the API key, or not for this; check the key's variable and its rights there",
    "quota_exhausted": "its quota or credit is used up; raise it there",
    "model_missing": "it does not have this model",
    "model_does_not_fit": "it has not enough memory for this model",
    "context_too_long": "the conversation is longer than the model takes",
    "request_rejected": "it does not accept the request",
    "output_blocked": "its content filter blocked the request or the answer",
    "output_repeats": "the model repeated one token without end; ask another model, or with another temperature",
    "redirected": "it redirects to another address; content is sent to the configured address only, so correct that",
}
_LATER: Final[Mapping[str, RetryCode]] = {
    "rate_limited": "rate_limited", "overloaded": "overloaded", "timeout": "timeout", "provider_error": "provider_error"
}  # fmt: skip
"""What may pass, so that the same provider is worth another try."""

_BY_KIND: Final[Mapping[str, RetryCode | OtherCode]] = {
    **dict.fromkeys(
        (
            "insufficient_quota", "billing_error", "billing_not_active", "billing_hard_limit_reached",
            "insufficient_balance", "insufficient_credits", "usage_limit_reached", "usage_limit_exceeded",
            "blocked_api_access", "spend_limit_reached", "payment_required", "quota_exceeded", "credit_limit_exceeded",
        ), "quota_exhausted",
    ),
    **dict.fromkeys(
        (
            "context_length_exceeded", "request_too_large", "model_context_window_exceeded", "string_above_max_length",
            "exceed_context_size_error", "max_tokens_exceeded", "context_window_exceeded", "prompt_too_long",
            "payload_too_large", "request_entity_too_large",
        ), "context_too_long",
    ),
    **dict.fromkeys(
        (
            "model_decommissioned", "model_not_found", "model_not_available", "model_not_active", "model_deprecated",
            "model_terms_required", "unknown_model", "invalid_model", "model_not_supported", "not_found_error",
            "notfounderror", "no_such_model", "deploymentnotfound",
        ), "model_missing",
    ),
    **dict.fromkeys(
        (
            "invalid_api_key", "authentication_error", "permission_error", "permission_denied", "unauthorized",
            "organization_restricted", "account_deactivated", "access_terminated", "ip_not_authorized",
            "unsupported_country_region_territory", "model_permission_blocked_org", "model_permission_blocked_project",
            "authenticationerror", "permissiondeniederror", "invalid_authentication", "access_denied",
        ), "not_authorised",
    ),
    **dict.fromkeys(
        (
            "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed",
            "output_blocked", "content_blocked", "moderation_blocked", "sensitive_content", "safety",
        ), "output_blocked",
    ),
    **dict.fromkeys(("json_validate_failed", "tool_use_failed", "unprocessable_entity"), "request_rejected"),
    **dict.fromkeys(
        ("rate_limit_exceeded", "rate_limit_error", "rate_limited", "too_many_requests", "ratelimiterror"),
        "rate_limited",
    ),
    **dict.fromkeys(
        (
            "overloaded_error", "overloaded", "capacity_exceeded", "engine_overloaded", "engine_overloaded_error",
            "server_overloaded", "service_unavailable", "insufficient_system_resource", "model_overloaded",
            "flex_tier_capacity_exceeded", "capacity_error",
        ), "overloaded",
    ),
    **dict.fromkeys(("timeout_error", "timeout", "request_timeout", "deadline_exceeded"), "timeout"),
}  # fmt: skip
"""By the provider's own name, from the error pages of OpenAI, Anthropic, Groq, Mistral, Together, DeepSeek, OpenRouter,
Azure, vLLM and llama.cpp."""

_REJECTIONS: Final = frozenset({400, 403, 404, 413, 422, 429, 500, 503})
_BY_WORDS: Final[tuple[tuple[RetryCode | OtherCode, tuple[str, ...], frozenset[int]], ...]] = (
    (
        "quota_exhausted",
        (
            "credit balance", "usage limit", "insufficient balance", "exceeded your current quota", "spending limit",
            "spend limit", "insufficient credit", "requires more credits", "insufficient_quota", "account balance",
        ),
        _REJECTIONS,
    ),
    (
        "context_too_long",
        (
            "maximum context length", "context window", "context length", "prompt is too long", "context limit",
            "input is too long", "available context size", "maximum model length", "max_model_len",
            "longer than the maximum", "exceeds the maximum number of tokens", "too many input tokens",
            "reduce the length", "prompt contains too many tokens", "input length exceeds", "number of tokens exceeds",
        ),
        _REJECTIONS - {429},
    ),
    (
        "output_blocked",
        (
            "content filtering policy", "content management policy", "content filter", "blocked by our",
            "safety system", "content policy", "output blocked", "moderation",
        ),
        _REJECTIONS - {429},
    ),
    # Ollama since 0.32 (`llm/server.go`): the model has said the same token a hundred times.
    ("output_repeats", ("token repeat limit",), _REJECTIONS - {429}),
    (
        "model_does_not_fit",
        ("more system memory", "out of memory", "insufficient memory", "not enough memory"),
        _REJECTIONS - {429},
    ),
    (
        "not_authorised",
        (
            "organization has been restricted", "organization has been disabled", "invalid api key",
            "account is not active",
        ),
        _REJECTIONS - {429},
    ),
    (
        "model_missing",
        ("decommissioned", "no longer supported", "model not found", "unknown model", "no longer available"),
        _REJECTIONS - {429},
    ),
)  # fmt: skip
"""Providers that name no cause, or the same for many (`invalid_request_error`), tell it in their text."""

_BY_TYPE: Final[Mapping[str, RetryCode | OtherCode]] = {
    "invalid_request_error": "request_rejected",
    "badrequesterror": "request_rejected",
    "api_error": "provider_error",
    "server_error": "provider_error",
    "internal_server_error": "provider_error",
}
"""Names that say no more than a status does, for complaints in a stream, which have none."""

_BY_STATUS: Final[Mapping[int, RetryCode | OtherCode]] = {
    401: "not_authorised",
    402: "quota_exhausted",
    403: "not_authorised",
    404: "model_missing",
    408: "timeout",
    409: "provider_error",
    413: "context_too_long",
    425: "provider_error",
    429: "rate_limited",
    # Tavily: the limits of a plan, and of pay-as-you-go.
    432: "quota_exhausted",
    433: "quota_exhausted",
    # Groq: the tier has no capacity left.
    498: "overloaded",
    499: "provider_error",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
