"""What an HTTP status means for the caller."""

from __future__ import annotations

import pytest
from headrace_models.errors import (
    BadRequest,
    ProviderError,
    RetrySameProvider,
    TryAnotherProvider,
    from_status,
    retry_after,
)


@pytest.mark.parametrize(
    ("status", "kind", "error", "code"),
    [
        (400, "", BadRequest, "invalid_request"),
        (400, "context_length_exceeded", TryAnotherProvider, "context_too_long"),
        (401, "", TryAnotherProvider, "not_authorised"),
        (402, "", TryAnotherProvider, "quota_exhausted"),
        (403, "", TryAnotherProvider, "not_authorised"),
        (404, "", TryAnotherProvider, "model_missing"),
        (408, "", RetrySameProvider, "timeout"),
        (409, "", RetrySameProvider, "provider_error"),
        (413, "", TryAnotherProvider, "context_too_long"),
        (422, "", BadRequest, "invalid_request"),
        (429, "", RetrySameProvider, "rate_limited"),
        (429, "insufficient_quota", TryAnotherProvider, "quota_exhausted"),
        (498, "", RetrySameProvider, "overloaded"),
        (500, "", RetrySameProvider, "provider_error"),
        (503, "", RetrySameProvider, "overloaded"),
        (504, "", RetrySameProvider, "timeout"),
        (529, "", RetrySameProvider, "overloaded"),
        (302, "", RetrySameProvider, "provider_error"),
    ],
)
def test_each_status_says_what_to_do(status: int, kind: str, error: type[ProviderError], code: str) -> None:
    made = from_status(status, provider="groq", kind=kind)
    assert type(made) is error
    assert made.code == code
    assert made.status == status
    assert str(made).startswith(f"groq answered {status}")
    assert kind in str(made)


def test_retry_after_reaches_the_caller() -> None:
    made = from_status(429, provider="groq", after_seconds=7.5)
    assert isinstance(made, RetrySameProvider)
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
