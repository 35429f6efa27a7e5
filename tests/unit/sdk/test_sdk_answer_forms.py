"""Answers in the form that was asked for, and the errors of those that are none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pytest
from headrace import (
    AnswerInvalid,
    Declined,
    Failure,
    HeadraceError,
    NoAnswer,
    NotFound,
    OverBudget,
    RequestError,
    RequestInvalid,
    RetryLater,
    Task,
)
from headrace.answer_forms import AnswerForm
from headrace.errors import FAILURES, no_answer
from headrace.parsing import task_of
from headrace.transport import problem
from headrace_intake.decide.chat_answers import STATUS_OF
from headrace_intake.decide.json_schemas import check_schema
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict


class Remark(BaseModel):
    """One remark of a review."""

    file: str
    line: int = Field(1, ge=1, description="From 1.")
    severity: Literal["low", "high"] = "low"


class Verdict(BaseModel):
    """With everything that schemas have."""

    summary: str
    remarks: list[Remark]
    worst: Remark | None = Field(None, description="The worst one.")

    @field_validator("summary")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text:
            raise ValueError("says nothing")
        return text


@dataclass
class Score:
    """A form without pydantic's base class."""

    points: int


class Day(BaseModel, strict=True):
    """Which takes no text for a date, but from JSON."""

    on: date


class Pair(TypedDict):
    """Another."""

    left: int
    right: int


def ended(answer: str | None, **fields: Any) -> Task:
    return task_of({"id": "t-1", "status": "succeeded", "answer": answer, "provider": "groq", "model": "m", **fields})


GOOD = '{"summary": "ok", "remarks": [{"file": "a.py"}], "worst": {"file": "b.py", "line": 7, "severity": "high"}}'


def test_an_answer_becomes_an_instance() -> None:
    verdict = ended(GOOD).parse(Verdict)
    assert isinstance(verdict, Verdict)
    assert verdict.worst == Remark(file="b.py", line=7, severity="high")
    assert ended('{"points": 3}').parse(Score) == Score(3)
    assert ended('{"on": "2027-01-01"}').parse(Day).on == date(2027, 1, 1)
    assert ended('{"left": 1, "right": 2}').parse(Pair) == {"left": 1, "right": 2}
    assert ended('{"a": [1]}').parse({"type": "object", "required": ["a"]}) == {"a": [1]}


def test_schemas_are_as_strict_providers_want_them() -> None:
    said = AnswerForm(Verdict).response_format()["json_schema"]
    assert (said["name"], said["strict"]) == ("Verdict", True)
    schema = said["schema"]
    check_schema(schema)
    assert schema["required"] == ["summary", "remarks", "worst"]
    assert schema["$defs"]["Remark"]["required"] == ["file", "line", "severity"]
    assert schema["$defs"]["Remark"]["additionalProperties"] is False
    assert "default" not in json.dumps(schema)
    assert AnswerForm({"title": "A form!"}).response_format()["json_schema"]["name"] == "A_form_"


@pytest.mark.parametrize(
    ("answer", "schema", "complaint"),
    [
        ("not json", Verdict, "not JSON"),
        ("", Score, "not JSON"),
        ('{"summary": "ok"}', Verdict, "remarks: Field required"),
        ('{"summary": "", "remarks": []}', Verdict, "says nothing"),
        ('{"points": "many"}', Score, "points: "),
        ('{"b": 1}', {"type": "object", "required": ["a"]}, r"\$: required"),
        ('{"a": [1, "x"]}', {"properties": {"a": {"items": {"type": "integer"}}}}, r"\$\.a\[1\]: type"),
    ],
)
def test_what_does_not_fit_says_where_and_of_which_task(answer: str, schema: Any, complaint: str) -> None:
    with pytest.raises(AnswerInvalid, match=complaint) as invalid:
        ended(answer).parse(schema)
    assert "t-1" in str(invalid.value)
    assert "groq/m" in str(invalid.value)
    assert invalid.value.task.answer == answer


def test_what_was_cut_off_says_so() -> None:
    with pytest.raises(AnswerInvalid, match="max_tokens"):
        ended('{"points": ', finish_reason="length").parse(Score)
    assert ended('{"points": 3}', finish_reason="length").parse(Score).points == 3


@pytest.mark.parametrize(
    "said",
    [
        {"status": "refused"},
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "refusal": "I will not."}}]},
        {"status": "refused", "choices": [{"index": 0, "message": {"role": "assistant", "content": "I will not."}}]},
    ],
)
def test_a_refusal_is_no_answer_of_any_form(said: dict[str, Any]) -> None:
    with pytest.raises(Declined) as declined:
        ended("I will not.", **said).parse(Verdict)
    assert declined.value.reason == "I will not."
    assert "I will not" not in str(declined.value), "messages contain nothing of the answer"


@pytest.mark.parametrize("kind", [list[int], int, Literal["a"], object])
def test_what_has_no_object_as_its_form_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ValueError, match="schema: "):
        AnswerForm(kind)


def failed(code: str) -> Task:
    return Task(id="t-1", status="failed", failure=Failure(code=code, message="why"))


@pytest.mark.parametrize("code", STATUS_OF)
def test_a_failure_raises_what_its_http_status_would(code: str) -> None:
    """The same trouble is the same error, whether a request is refused for it or a task that was accepted."""
    status = STATUS_OF[code]
    if status == 504:
        assert type(no_answer(failed(code))) is NoAnswer
        return
    refused = problem(status, {"Retry-After": "5"}, {"type": code.replace("_", "-"), "detail": "why"}, "http://h")
    kind = type(getattr(refused, "error", refused))
    error = no_answer(failed(code))
    assert isinstance(error, kind)
    assert isinstance(error, NoAnswer)
    assert error.task.id == "t-1"
    assert f"{code}: why" in str(error)
    assert FAILURES[code][1] == status
    if isinstance(error, RequestError):
        assert (error.status, error.kind) == (status, code)
    if isinstance(error, RetryLater):
        assert error.after_seconds > 0


def test_documented_errors_are_raised_for_their_failures() -> None:
    expected: dict[str, type[HeadraceError]] = {
        "over_budget": OverBudget, "no_local_capacity": RetryLater, "too_many_live_tasks": RetryLater,
        "below_floor": RequestInvalid, "incapable": RequestInvalid, "unknown_model": NotFound,
        "answer_does_not_fit": AnswerInvalid,
    }  # fmt: skip
    for code, kind in expected.items():
        assert isinstance(no_answer(failed(code)), kind), code
    for task in (failed("provider_error"), failed("no such code"), Task(id="t", status="cancelled"),
                 Task(id="t", status="expired", failure=Failure(code="deadline_passed"))):  # fmt: skip
        assert type(no_answer(task)) is NoAnswer
