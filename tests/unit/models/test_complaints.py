# ruff: noqa: E501 - one line for each wording, as its provider writes it
"""From what a provider called a failure to our error: by status, in a stream, in a body."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.upstream.complaints import complaint_in, complaint_of, error_of, retry_after
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 6, 8, 49, 37, tzinfo=UTC)
SECRET = "the prompt itself"


def openai(message: str, *, type: str = "invalid_request_error", code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "code": code, "param": None}}


def anthropic(message: str, *, type: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}


def error_for(status: int, body: object, **headers: str) -> ProviderError:
    said = body if isinstance(body, str) else json.dumps(body)
    return error_of(complaint_of(status, said, headers, NOW), provider="groq")


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (302, TryAnotherProvider, "redirected"),
        (307, TryAnotherProvider, "redirected"),
        (308, TryAnotherProvider, "redirected"),
        (400, TryAnotherProvider, "request_rejected"),
        (401, TryAnotherProvider, "not_authorised"),
        (402, TryAnotherProvider, "quota_exhausted"),
        (403, TryAnotherProvider, "not_authorised"),
        (404, TryAnotherProvider, "model_missing"),
        (405, TryAnotherProvider, "request_rejected"),
        (408, RetrySameProvider, "timeout"),
        (409, RetrySameProvider, "provider_error"),
        (413, TryAnotherProvider, "context_too_long"),
        (422, TryAnotherProvider, "request_rejected"),
        (429, RetrySameProvider, "rate_limited"),
        (432, TryAnotherProvider, "quota_exhausted"),
        (498, RetrySameProvider, "overloaded"),
        (500, RetrySameProvider, "provider_error"),
        (502, RetrySameProvider, "provider_error"),
        (503, RetrySameProvider, "overloaded"),
        (504, RetrySameProvider, "timeout"),
        (529, RetrySameProvider, "overloaded"),
        (204, RetrySameProvider, "provider_error"),
    ],
)
@pytest.mark.parametrize("body", ["", "<html>", "[]", '"text"', "{}", '{"error": null}', '{"error": {}}', "\x00\udcff"])
def test_a_status_alone_says_what_to_do(status: int, error: type[ProviderError], code: str, body: str) -> None:
    made = error_for(status, body)
    assert (type(made), made.code, made.status) == (error, code, status)
    assert str(made).startswith(f"groq answered {status}")


KNOWN = [
    # OpenAI and Groq
    (429, openai("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"), "quota_exhausted"),
    (429, openai("Rate limit reached. Upgrade at https://x/settings/billing", type="tokens", code="rate_limit_exceeded"), "rate_limited"),
    (400, openai("This model's maximum context length is 8192 tokens", code="context_length_exceeded"), "context_too_long"),
    (413, openai("Request too large", type="tokens", code="rate_limit_exceeded"), "rate_limited"),
    (400, openai("The model `mixtral` has been decommissioned", code="model_decommissioned"), "model_missing"),
    (404, openai("The model does not exist", code="model_not_found"), "model_missing"),
    (400, openai("Failed to generate JSON", code="json_validate_failed"), "request_rejected"),
    (400, openai("Organization has been restricted", code="organization_restricted"), "not_authorised"),
    (403, openai("Country not supported", code="unsupported_country_region_territory"), "not_authorised"),
    (400, openai("Output blocked", code="content_filter"), "output_blocked"),
    (400, openai("Billing hard limit has been reached", code="billing_hard_limit_reached"), "quota_exhausted"),
    (498, openai("Flex tier capacity exceeded", code="flex_tier_capacity_exceeded"), "overloaded"),
    # Anthropic
    (400, anthropic("prompt is too long: 210000 tokens > 200000 maximum"), "context_too_long"),
    (400, anthropic("input length and `max_tokens` exceed context limit: 1 + 2 > 3"), "context_too_long"),
    (400, anthropic("Your credit balance is too low to access the API"), "quota_exhausted"),
    (400, anthropic("You have reached your specified API usage limits. You will regain access on 2026-12-01"), "quota_exhausted"),
    (400, anthropic("Output blocked by content filtering policy"), "output_blocked"),
    (403, anthropic("not allowed", type="permission_error"), "not_authorised"),
    (529, anthropic("Overloaded", type="overloaded_error"), "overloaded"),
    (413, anthropic("Request exceeds the maximum size", type="request_too_large"), "context_too_long"),
    (400, anthropic("This organization has been disabled."), "not_authorised"),
    # vLLM, llama.cpp, Mistral, DeepSeek, OpenRouter, FastAPI
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", "type": "BadRequestError", "code": 400}, "context_too_long"),
    (404, {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}, "model_missing"),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}, "context_too_long"),
    (422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]}, "type": "invalid_request_error"}, "request_rejected"),
    (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}, "quota_exhausted"),
    (502, {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "x"}}}, "provider_error"),
    (403, {"error": {"code": 403, "message": "Input was flagged by moderation"}}, "output_blocked"),
    (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "request_rejected"),
    (404, {"detail": "Not Found"}, "model_missing"),
    (401, {"message": "Unauthorized"}, "not_authorised"),
    # Ollama
    (404, {"error": "model 'x' not found"}, "model_missing"),
    (500, {"error": "model requires more system memory (8 GiB) than is available (4 GiB)"}, "model_does_not_fit"),
    (400, {"error": "the input length exceeds the context length"}, "context_too_long"),
    (500, {"error": "prediction aborted, token repeat limit reached"}, "output_repeats"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code"), KNOWN)
def test_what_providers_call_their_failures(status: int, body: object, code: str) -> None:
    assert error_for(status, body).code == code


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}, "type": "error"}, "overloaded"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}, "context_too_long"),
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, "provider_error"),
        ({"error": {"code": 429, "message": "slow down"}}, "rate_limited"),
        ({"error": {"code": "503", "message": "x"}}, "overloaded"),
        ({"error": "llama runner process has terminated"}, "provider_error"),
        ({"error": "CUDA error: out of memory"}, "model_does_not_fit"),
        ({"error": "prediction aborted, token repeat limit reached"}, "output_repeats"),
        ({"error": {"message": 7, "type": ["x"], "code": {}}}, "provider_error"),
        ({"object": "error", "message": "x", "code": 400}, "request_rejected"),
        ({"error": {"code": True}}, "provider_error"),
    ],
)  # fmt: skip
def test_in_a_stream_a_complaint_has_no_status_and_means_the_same(said: object, code: str) -> None:
    complaint = complaint_in(said)
    assert complaint is not None
    assert error_of(complaint, provider="groq").code == code


@pytest.mark.parametrize("said", [{}, {"choices": []}, {"message": {"content": "x"}}, None, 7, [], {"error": None}])
def test_what_is_no_complaint(said: object) -> None:
    assert complaint_in(said) is None


@pytest.mark.parametrize(
    "body",
    [
        openai(f"cannot process: {SECRET}"),
        openai("x", type=SECRET, code=SECRET),
        {"error": SECRET},
        {"error": {"type": "a" * 300 + SECRET, "code": f"bad_request: {SECRET}", "message": SECRET}},
        SECRET,
    ],
)
def test_words_of_a_provider_are_never_shown(body: object) -> None:
    made = error_for(400, body)
    assert SECRET not in str(made)
    assert len(str(made)) < 300


def test_the_name_of_the_cause_is_shown() -> None:
    assert "(json_validate_failed)" in str(error_for(400, openai("x", code="json_validate_failed")))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Fri, 06 Nov 2026 08:49:47 GMT"}, 10.0),
        ({"retry-after": "Friday, 06-Nov-26 08:49:47 GMT"}, 10.0),
        ({"retry-after": "Fri Nov  6 08:49:47 2026"}, 10.0),
        ({"retry-after": "Fri, 06 Nov 2026 08:49:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 06 Nov 2026 08:00:10 GMT", "date": "Fri, 06 Nov 2026 08:00:00 GMT"}, 10.0),
        ({"retry-after": "Fri, 06 Nov 2099 08:00:10 GMT"}, 86_400.0),
        ({"retry-after": "1e300"}, 86_400.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Fri, 99 Nov 2026 08:49:47 GMT"}, None),
        ({"retry-after": "9" * 5000}, None),
    ],
)
def test_the_wait_is_read_in_each_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.datetimes(min_value=datetime(2026, 11, 6), max_value=datetime(2026, 11, 6, 23)))
def test_a_date_and_the_seconds_until_then_are_the_same(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    dated = retry_after({"retry-after": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")}, NOW)
    assert dated == max(timedelta(0), moment - NOW).total_seconds()


@given(st.text(), st.text())
def test_no_header_breaks_it(value: str, date: str) -> None:
    seconds = retry_after({"retry-after": value, "date": date}, NOW)
    assert seconds is None or 0 <= seconds <= 86_400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["error", "code", "type", "message", "x"]), inner),
)


@given(st.integers(min_value=100, max_value=599), JSON)
def test_any_document_is_some_error(status: int, body: object) -> None:
    made = error_of(complaint_of(status, json.dumps(body), {}, NOW), provider="groq")
    assert isinstance(made, RetrySameProvider | TryAnotherProvider)
    complaint = complaint_in(body)
    assert complaint is None or error_of(complaint, provider="groq").status is None or complaint.status is not None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "model requires more system memory (8.0 GiB) than is available (4.1 GiB)",
            "model requires more system memory (8.0 GiB) than is available (4.1 GiB)",
        ),
        ("llama runner process has terminated: exit status 2", "llama runner process has terminated: exit status 2"),
        (f"llama-server process has terminated: error loading {SECRET}", "llama-server process has terminated"),
        ("server busy, please try again.  maximum pending requests exceeded", "maximum pending requests exceeded"),
        (f"cannot handle {SECRET}", ""),
    ],
)
def test_known_sentences_are_shown_and_nothing_else(said: str, shown: str) -> None:
    error = error_for(500, {"error": said})
    assert SECRET not in error.message
    assert error.message.endswith(f"({shown})") if shown else "(" not in error.message
