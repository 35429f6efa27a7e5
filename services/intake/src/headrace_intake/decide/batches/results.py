"""The lines of a batch's files of results, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_contracts.content import ContentSealed
from headrace_contracts.events import Usage
from headrace_runtime.problems import Problem

from headrace_intake.decide.batches.endpoints import BatchEndpoint
from headrace_intake.decide.batches.life import LineState
from headrace_intake.decide.chat_answers import error_of
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.views import TaskView

_EXPIRED: Final = "This request could not be executed before the completion window expired."
_CANCELLED: Final = "This request was not executed, since its batch was cancelled."
_GONE: Final = "The result of this request is past its retention in the history of tasks."


@dataclass(frozen=True, slots=True)
class EndedLine:
    """A line at its end.

    Attributes:
        request_id: The task id; also that of a line which was refused, and is no task.
        refusal: Status and body, as JSON, of the answer to a line that could not become a task.
        view: The end of its task; None where there is none.
        start, size: Its place in the input file, in bytes.
    """

    number: int
    custom_id: str
    state: LineState
    request_id: str
    refusal: str | None = None
    view: TaskView | None = None
    start: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class LineResult:
    """A line of a file of results."""

    document: dict[str, Any]
    succeeded: bool


def refusal_document(problem: Problem) -> str:
    """What is kept of the refusal of a line."""
    return json.dumps([problem.status, problem.to_openai()])


def result_of(
    line: EndedLine,
    endpoint: BatchEndpoint,
    problem_of: Callable[[Exception], Problem],
    draft: TaskDraft | None = None,
) -> LineResult:
    """The line of the file of results, or of errors.

    Args:
        draft: What was asked, if the endpoint's answers are `told_again`.
        problem_of: The problem for a refusal.
    """
    if line.refusal is not None:
        status, body = json.loads(line.refusal)
        return _answered(line, status, body)
    match line.state:
        case LineState.ANSWERED | LineState.FAILED if line.view is not None:
            error = error_of(line.view)
            if error is not None:
                problem = problem_of(error.refusal)
                return _answered(line, problem.status, problem.to_openai())
            try:
                return _answered(line, 200, endpoint.answer(line.view, draft))
            except ContentSealed as sealed:
                problem = Problem(502, "answer-sealed", f"The answer cannot be shown here: {sealed}")
                return _answered(line, problem.status, problem.to_openai())
        case LineState.EXPIRED:
            return _without_answer(line, "batch_expired", _EXPIRED)
        case LineState.CANCELLED:
            return _without_answer(line, "batch_cancelled", _CANCELLED)
    return _without_answer(line, "result_expired", _GONE)


def _answered(line: EndedLine, status: int, body: dict[str, Any]) -> LineResult:
    response = {"status_code": status, "request_id": line.request_id, "body": body}
    return LineResult(_document(line, response, None), status == 200)


def _without_answer(line: EndedLine, code: str, message: str) -> LineResult:
    return LineResult(_document(line, None, {"code": code, "message": message}), succeeded=False)


def _document(line: EndedLine, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "batch_req_" + line.request_id.replace("-", ""),
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }


@dataclass(slots=True)
class BatchUsage:
    """The tokens of a batch's tasks."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("input", "cached", "output", "reasoning"), 0))

    def add(self, usage: Usage | None) -> None:
        """Count those of a task."""
        if usage is None:
            return
        self.tokens["input"] += usage.input_tokens
        self.tokens["cached"] += usage.cached_input_tokens
        self.tokens["output"] += usage.output_tokens
        self.tokens["reasoning"] += usage.reasoning_tokens

    def document(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return {
            "input_tokens": self.tokens["input"],
            "input_tokens_details": {"cached_tokens": self.tokens["cached"]},
            "output_tokens": self.tokens["output"],
            "output_tokens_details": {"reasoning_tokens": self.tokens["reasoning"]},
            "total_tokens": self.tokens["input"] + self.tokens["output"],
        }
