"""What an HTTP status means for the caller."""

from __future__ import annotations

import pytest
from headrace_models.errors import BadRequest, ProviderError, RetryLater, TryAnother, from_status, retry_after


@pytest.mark.parametrize(
    ("status", "kind", "error", "code"),
    [
        (400, "", BadRequest, "invalid_request"),
        (400, "context_length_exceeded", TryAnother, "context_too_long"),
        (401, "", TryAnother, "not_authorised"),
        (402, "", TryAnother, "quota_exhausted"),
        (403, "", TryAnother, "not_authorised"),
        (404, "", TryAnother, "model_missing"),
        (408, "", RetryLater, "timeout"),
        (409, "", RetryLater, "provider_error"),
        (413, "", TryAnother, "context_too_long"),
        (422, "", BadRequest, "invalid_request"),
        (429, "", RetryLater, "rate_limited"),
        (429, "insufficient_quota", TryAnother, "quota_exhausted"),
        (498, "", RetryLater, "overloaded"),
        (500, "", RetryLater, "provider_error"),
        (503, "", RetryLater, "overloaded"),
        (504, "", RetryLater, "timeout"),
        (529, "", RetryLater, "overloaded"),
        (302, "", RetryLater, "provider_error"),
    ],
)
def test_each_status_says_what_to_do(status: int, kind: str, error: type[ProviderError], code: str) -> None:
    made = from_status(status, provider="groq", kind=kind)
    assert type(made) is error
    assert made.code == code
    assert made.status == status
    assert str(made).startswith(f"groq answered {status}")
    assert kind in str(made)


def test_the_wish_to_wait_reaches_the_caller() -> None:
    made = from_status(429, provider="groq", after_seconds=7.5)
    assert isinstance(made, RetryLater)
    assert made.after_seconds == 7.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_the_wait_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
