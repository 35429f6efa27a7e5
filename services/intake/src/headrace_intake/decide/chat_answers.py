"""From the end of a task to what OpenAI's clients expect: a completion, the chunks of a stream, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import TaskStatus, Usage

from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.views import TaskView, dollars

NO_RETRY: Final[Mapping[str, str]] = {"x-should-retry": "false"}
"""Keeps OpenAI's clients from retrying the request by themselves."""

_RETRY_AFTER_SECONDS: Final = 5
STATUS_OF: Final[Mapping[str, int]] = {
    "no_capacity": 503,
    "no_local_capacity": 503,
    "overloaded": 503,
    "rate_limited": 503,
    "unreachable": 503,
    "timeout": 504,
    "attempt_timeout": 504,
    "over_budget": 402,
    "privacy": 403,
    "no_consent": 403,
    "mode": 403,
    "unknown_role": 404,
    "unknown_model": 404,
    "context_too_small": 400,
    "context_too_long": 400,
    "invalid_request": 400,
    "request_rejected": 400,
    "record_too_large": 413,
}
"""HTTP status per failure code; 502 for any other, since something upstream failed."""


@dataclass(frozen=True, slots=True)
class ChatError:
    """A failure in place of an answer: status, OpenAI's error object, and headers."""

    refusal: Refusal
    headers: Mapping[str, str]


def error_of(end: TaskView) -> ChatError | None:
    """The error of a task's end for a chat caller; None when there is an answer (a refusal by the model is one).

    Raises ValueError for a task that has not ended.
    """
    code = end.failure.code if end.failure is not None else "task_failed"
    why = (end.failure.message if end.failure is not None else "") or "no reason was given"
    match TaskStatus(end.status):
        case TaskStatus.SUCCEEDED | TaskStatus.REFUSED:
            return None
        case TaskStatus.CANCELLED:
            return ChatError(Refusal(499, "task_cancelled", f"The task was cancelled: {why}"), NO_RETRY)
        case TaskStatus.EXPIRED:
            return ChatError(
                Refusal(504, "deadline_expired", f"The deadline passed before there was an answer: {why}"), NO_RETRY
            )
        case TaskStatus.FAILED:
            return _failed(end, code, why)


def _failed(end: TaskView, code: str, why: str) -> ChatError:
    status = STATUS_OF.get(code, 502)
    refusal = Refusal(status, code, f"The task failed: {why}")
    if status != 503:
        return ChatError(refusal, NO_RETRY)
    after = end.failure.retry_after_ms if end.failure is not None else None
    seconds = max(1, -(-after // 1000)) if after else _RETRY_AFTER_SECONDS
    return ChatError(refusal, {"Retry-After": str(seconds)})


def answer_text(end: TaskView) -> str:
    """The text of the answer. Raises ContentSealed."""
    return "" if end.answer is None else text_of(end.answer)


def provenance(end: TaskView) -> dict[str, Any]:
    """Who answered, and what it cost."""
    return {
        "task_id": end.task_id,
        "provider": end.provider,
        "model": end.model,
        "node": end.node,
        "simulated": end.simulated,
        "served_from": end.served_from,
        "model_ms": end.model_ms,
        "source_task_id": end.source_task_id,
        "cost_nanodollars": end.cost_nanodollars,
        "cost_usd": dollars(end.cost_nanodollars),
        "attempts": end.attempts,
        "privacy": end.privacy,
    }


def headers(end: TaskView) -> dict[str, str]:
    """The same as headers, for callers that do not see the body."""
    told = {
        "X-Headrace-Task-Id": end.task_id,
        "X-Headrace-Provider": end.provider,
        "X-Headrace-Model": end.model,
        "X-Headrace-Simulated": "true" if end.simulated else "false",
        "X-Headrace-Served-From": end.served_from,
        "X-Headrace-Cost-Usd": dollars(end.cost_nanodollars),
    }
    return {name: _header_value(value) for name, value in told.items() if value is not None}


def _header_value(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def model_name(end: TaskView) -> str:
    """The answering model, by the name under which it can be requested."""
    return f"{end.provider}/{end.model}" if end.provider and end.model else end.model or ""


def usage(end: TaskView) -> dict[str, Any]:
    """Tokens of all attempts, as OpenAI counts them."""
    tokens = end.usage or Usage()
    return {
        "prompt_tokens": tokens.input_tokens,
        "completion_tokens": tokens.output_tokens,
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
        "prompt_tokens_details": {"cached_tokens": tokens.cached_input_tokens},
    }


def finish_reason(end: TaskView) -> str:
    """The finish reason in OpenAI's terms."""
    if end.status == TaskStatus.REFUSED:
        return "content_filter"
    return "length" if end.finish_reason == "length" else "stop"


def completion(end: TaskView) -> dict[str, Any]:
    """The body of a non-streamed answer. Raises ContentSealed."""
    text = answer_text(end)
    refused = end.status == TaskStatus.REFUSED
    return {
        "id": completion_id(end.task_id),
        "object": "chat.completion",
        "created": end.submitted_at // 1000,
        "model": model_name(end),
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None if refused else text,
                    "refusal": (text or "The model declined to answer.") if refused else None,
                },
                "logprobs": None,
                "finish_reason": finish_reason(end),
            }
        ],
        "usage": usage(end),
        "headrace": provenance(end),
    }


def completion_id(task_id: str) -> str:
    """Completion id in OpenAI's format."""
    return f"chatcmpl-{task_id}"


@dataclass(frozen=True, slots=True)
class Chunks:
    """Makes the chunks of one stream."""

    task_id: str
    created_ms: int
    requested_model: str
    include_usage: bool

    def opening(self) -> dict[str, Any]:
        """The first chunk: the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, piece: str) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"content": piece})

    def refusal(self, piece: str) -> dict[str, Any]:
        """A chunk of the model's refusal."""
        return self._chunk({"refusal": piece})

    def closing(self, end: TaskView) -> list[dict[str, Any]]:
        """The last chunks: finish reason, origin, and usage if it was requested."""
        last = self._chunk({}, finish_reason(end), model_name(end))
        last["headrace"] = provenance(end)
        if not self.include_usage:
            return [last]
        return [last, {**self._chunk({}, None, model_name(end)), "choices": [], "usage": usage(end)}]

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, model: str | None = None) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": completion_id(self.task_id),
            "object": "chat.completion.chunk",
            "created": self.created_ms // 1000,
            "model": model or self.requested_model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
        }
        if self.include_usage:
            chunk["usage"] = None
        return chunk


def remainder(sent: str, whole: str) -> str | None:
    """The rest of the answer that is still to be sent; None when what was sent is not a prefix of it."""
    return whole[len(sent) :] if whole.startswith(sent) else None
