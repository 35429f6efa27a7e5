"""From a task's end to completions, chunks, errors and headers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.content import ContentSealed, plain
from headrace_contracts.events import (
    AnswerChoice,
    Content,
    Failure,
    MessagePart,
    PartKind,
    Privacy,
    ServedFrom,
    TaskCompleted,
    TaskStatus,
    Usage,
)
from headrace_intake.decide import chat_answers
from headrace_intake.decide.chat_answers import Chunks, Sent, completion, error_of, headers
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.views import TaskView, with_completion

END = TaskCompleted(
    task_id="t-1",
    tenant="acme",
    status=TaskStatus.SUCCEEDED,
    answer=plain("Hello"),
    finish_reason="stop",
    provider="groq",
    model="llama",
    node="groq",
    simulated=True,
    served_from=ServedFrom.ATTEMPT,
    usage=Usage(input_tokens=10, output_tokens=4, cached_input_tokens=3),
    cost_nanodollars=1_234,
    attempts=2,
    privacy=Privacy.PUBLIC,
    submitted_at=1_700_000_000_123,
    completed_at=1_700_000_001_000,
)


def view(**changes: object) -> TaskView:
    return with_completion(None, replace(END, **changes))  # type: ignore[arg-type]


def failed(code: str, retry_after_ms: int | None = None) -> TaskView:
    failure = Failure(code=code, message="why", retry_after_ms=retry_after_ms)
    return view(status=TaskStatus.FAILED, answer=None, failure=failure)


def test_a_completion_says_what_was_answered_by_whom_and_at_which_cost() -> None:
    body = completion(view())
    assert body["id"] == "chatcmpl-t-1"
    assert body["created"] == 1_700_000_000
    assert body["model"] == "groq/llama"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    told = body["headrace"]
    assert (told["task_id"], told["provider"], told["model"], told["simulated"]) == ("t-1", "groq", "llama", True)
    assert (told["cost_nanodollars"], told["cost_usd"], told["served_from"]) == (1_234, "0.000001234", "attempt")


def test_the_same_stands_in_headers() -> None:
    assert headers(view()) == {
        "X-Headrace-Task-Id": "t-1",
        "X-Headrace-Provider": "groq",
        "X-Headrace-Model": "llama",
        "X-Headrace-Simulated": "true",
        "X-Headrace-Served-From": "attempt",
        "X-Headrace-Cost-Usd": "0.000001234",
    }


def test_a_models_name_cannot_forge_a_header() -> None:
    assert headers(view(model="m\r\nX-Evil: 1é"))["X-Headrace-Model"] == "m??X-Evil: 1?"


def test_a_refusal_by_the_model_is_an_answer() -> None:
    refused = view(status=TaskStatus.REFUSED, answer=plain("I cannot help with that."))
    assert error_of(refused) is None
    (choice,) = completion(refused)["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "I cannot help with that."}


def test_a_refusal_without_words_is_still_one() -> None:
    (choice,) = completion(view(status=TaskStatus.REFUSED, answer=None))["choices"]
    assert choice["message"]["refusal"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("length", "length"), ("stop", "stop"), (None, "stop"), ("odd", "stop"), ("tool_calls", "tool_calls")],
)
def test_finish_reasons_are_those_that_openai_knows(reason: str | None, told: str) -> None:
    assert chat_answers.finish_reason(reason) == told


@pytest.mark.parametrize(
    ("end", "status", "kind", "retried"),
    [
        (view(status=TaskStatus.EXPIRED, answer=None), 504, "deadline_expired", False),
        (view(status=TaskStatus.CANCELLED, answer=None), 499, "task_cancelled", False),
        (failed("no_local_capacity"), 503, "no_local_capacity", True),
        (failed("overloaded"), 503, "overloaded", True),
        (failed("too_many_live_tasks"), 429, "too_many_live_tasks", True),
        (failed("over_budget"), 402, "over_budget", False),
        (failed("no_consent"), 403, "no_consent", False),
        (failed("unknown_model"), 404, "unknown_model", False),
        (failed("context_too_small"), 400, "context_too_small", False),
        (failed("bad_output"), 502, "bad_output", False),
        (view(status=TaskStatus.FAILED, answer=None, failure=None), 502, "task_failed", False),
    ],
)
def test_an_end_without_answer_is_an_error_with_the_fitting_status(
    end: TaskView, status: int, kind: str, retried: bool
) -> None:
    error = error_of(end)
    assert error is not None
    assert (error.refusal.status, error.refusal.kind) == (status, kind)
    assert ("Retry-After" in error.headers) is retried
    assert (error.headers.get("x-should-retry") == "false") is not retried


@pytest.mark.parametrize(("asked_ms", "seconds"), [(None, "5"), (1, "1"), (2_001, "3")])
def test_retry_after_is_what_the_provider_asked_for(asked_ms: int | None, seconds: str) -> None:
    error = error_of(failed("overloaded", asked_ms))
    assert error is not None
    assert error.headers["Retry-After"] == seconds


def test_a_sealed_answer_is_not_shown_as_text() -> None:
    with pytest.raises(ContentSealed):
        completion(view(answer=Content(cipher="key-1", data=b"\x00")))


def test_a_stream_ends_with_reason_provenance_and_usage_where_asked_for() -> None:
    chunks = Chunks("t-1", 1_700_000_000_123, "auto", include_usage=True)
    assert chunks.opening()["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks.opening()["model"] == "auto"
    assert chunks.piece(HeardPiece(PartKind.TEXT, 0, 0, "Hel", None, None))["choices"][0]["delta"] == {"content": "Hel"}
    last, counted = chunks.closing(view())
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["model"] == "groq/llama"
    assert last["headrace"]["provider"] == "groq"
    assert last["usage"] is None
    assert counted["choices"] == []
    assert counted["usage"]["total_tokens"] == 14
    (only,) = Chunks("t-1", 0, "auto", include_usage=False).closing(view())
    assert "usage" not in only


@pytest.mark.parametrize(
    ("sent", "whole", "rest"),
    [("", "Hello", "Hello"), ("Hel", "Hello", "lo"), ("Hello", "Hello", ""), ("Hex", "Hello", None), ("Hi", "", None)],
)
def test_what_is_still_to_be_sent(sent: str, whole: str, rest: str | None) -> None:
    begun = Sent()
    if sent:
        begun.add(HeardPiece(PartKind.TEXT, 0, 0, sent, None, None))
    missing = begun.missing(view(answer=plain(whole)))
    assert (None if missing is None else "".join(piece.text for piece in missing)) == rest


@pytest.mark.parametrize(
    ("sent", "text", "refusal", "rest"),
    [
        ("I can", "", "I cannot.", [(PartKind.REFUSAL, "not.")]),
        ("I cannot.", "", "I cannot.", []),
        ("Well. I", "Well. ", "I cannot.", [(PartKind.REFUSAL, " cannot.")]),
        ("We", "Well. ", "I cannot.", [(PartKind.TEXT, "ll. "), (PartKind.REFUSAL, "I cannot.")]),
        ("I will", "", "I cannot.", None),
    ],
)
def test_a_refusal_continues_the_text_that_was_sent(
    sent: str, text: str, refusal: str, rest: list[tuple[PartKind, str]] | None
) -> None:
    begun = Sent()
    begun.add(HeardPiece(PartKind.TEXT, 0, 0, sent, None, None))
    said = [(PartKind.TEXT, text), (PartKind.REFUSAL, refusal)]
    parts = tuple(MessagePart(kind=kind, content=plain(each)) for kind, each in said if each)
    end = view(status=TaskStatus.REFUSED, choices=(AnswerChoice(parts=parts, finish_reason="refusal"),))
    missing = begun.missing(end)
    assert (None if missing is None else [(piece.kind, piece.text) for piece in missing]) == rest
