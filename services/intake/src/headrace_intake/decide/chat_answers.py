"""From the end of a task to what OpenAI's clients expect: a completion, the chunks of a stream, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_contracts.content import ContentSealed
from headrace_contracts.events import AnswerChoice, PartKind, TaskStatus, Usage
from headrace_contracts.floors import BELOW_FLOOR, CONTRADICTION

from headrace_intake.decide import several_models
from headrace_intake.decide.choices import answers_of, calls, logprobs, message, texts
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.replies import Delta, HeardPiece
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
    BELOW_FLOOR: 403,
    CONTRADICTION: 400,
    "unknown_role": 404,
    "unknown_model": 404,
    "context_too_small": 400,
    "incapable": 400,
    "url_not_public": 400,
    "no_research": 400,
    "no_query": 400,
    "too_many_queries": 400,
    "no_cascade": 400,
    "no_ensemble": 400,
    "cascade_and_ensemble": 400,
    "not_for_several_models": 400,
    "no_other_node": 503,
    "not_in_only": 400,
    "ignored": 400,
    "over_max_price": 400,
    "too_slow": 400,
    "data_rules": 400,
    "parameters_not_taken": 400,
    "no_fallbacks": 400,
    "tenant_switched_off": 503,
    "switched_off": 503,
    "context_too_long": 400,
    "invalid_request": 400,
    "request_rejected": 400,
    "record_too_large": 413,
    "answer_too_large": 413,
    "too_many_live_tasks": 429,
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
    if status not in (429, 503):
        return ChatError(refusal, NO_RETRY)
    after = end.failure.retry_after_ms if end.failure is not None else None
    seconds = max(1, -(-after // 1000)) if after else _RETRY_AFTER_SECONDS
    return ChatError(refusal, {"Retry-After": str(seconds)})


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
        "ensemble": several_models.shown(end.ensemble),
        "cascade": several_models.shown(end.cascade),
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
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached_input_tokens,
            "audio_tokens": tokens.audio_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
    }


def finish_reason(reason: str | None) -> str:
    """The finish reason of an answer in OpenAI's terms."""
    if reason in ("refusal", "content_filter"):
        return "content_filter"
    return reason if reason in ("length", "tool_calls") else "stop"


def completion(end: TaskView) -> dict[str, Any]:
    """The body of a non-streamed answer. Raises ContentSealed."""
    return {
        "id": completion_id(end.task_id),
        "object": "chat.completion",
        "created": end.submitted_at // 1000,
        "model": model_name(end),
        "choices": [
            {
                "index": choice.index,
                "message": _message(choice, declined=end.status == TaskStatus.REFUSED),
                "logprobs": logprobs(choice),
                "finish_reason": finish_reason(choice.finish_reason),
            }
            for choice in answers_of(end)
        ],
        "usage": usage(end),
        "headrace": provenance(end),
    }


def _message(choice: AnswerChoice, *, declined: bool) -> dict[str, Any]:
    said = message(choice)
    if declined and not said["refusal"]:
        return {**said, "content": None, "refusal": said["content"] or "The model declined to answer."}
    return said


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

    def opening(self, choice: int = 0) -> dict[str, Any]:
        """The first chunk of an answer: the role."""
        return self._chunk({"role": "assistant", "content": ""}, choice)

    def piece(self, piece: HeardPiece) -> dict[str, Any]:
        """A chunk with the next piece of a part."""
        delta: dict[str, Any]
        match piece.kind:
            case PartKind.TOOL_CALL:
                opens = {} if piece.call_id is None else {"id": piece.call_id, "type": "function"}
                name = {} if piece.name is None else {"name": piece.name}
                delta = {"tool_calls": [{"index": piece.part, **opens, "function": {**name, "arguments": piece.text}}]}
            case PartKind.REASONING:
                delta = {"reasoning_content": piece.text}
            case PartKind.REFUSAL:
                delta = {"refusal": piece.text}
            case _:
                delta = {"content": piece.text}
        return self._chunk(delta, piece.choice)

    def closing(self, end: TaskView) -> list[dict[str, Any]]:
        """The last chunks: finish reasons, origin, and usage if it was requested. Raises ContentSealed."""
        last = []
        for choice in answers_of(end):
            # What cannot come in pieces: signatures of the reasoning, sources, and log probabilities.
            said = message(choice)
            delta: dict[str, Any] = {name: said[name] for name in ("reasoning_details", "annotations") if name in said}
            chunk = self._chunk(delta, choice.index, finish_reason(choice.finish_reason), model_name(end))
            chunk["choices"][0]["logprobs"] = logprobs(choice)
            last.append(chunk)
        last[-1]["headrace"] = provenance(end)
        if not self.include_usage:
            return last
        return [*last, {**self._chunk({}, 0, None, model_name(end)), "choices": [], "usage": usage(end)}]

    def _chunk(
        self, delta: dict[str, Any], choice: int, reason: str | None = None, model: str | None = None
    ) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": completion_id(self.task_id),
            "object": "chat.completion.chunk",
            "created": self.created_ms // 1000,
            "model": model or self.requested_model,
            "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}],
        }
        if self.include_usage:
            chunk["usage"] = None
        return chunk


class Sent:
    """What of the answers has been sent to a caller, by part."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, PartKind, int], list[str]] = {}
        self.choices: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._texts)

    def add(self, piece: HeardPiece) -> None:
        """A piece has been sent."""
        self._texts.setdefault((piece.choice, piece.kind, piece.part), []).append(piece.text)

    def missing(self, end: TaskView) -> list[HeardPiece] | None:
        """What is still to be sent of the whole answers; None if what was sent is not how they begin.

        Raises ContentSealed.
        """
        missing: list[HeardPiece] = []
        begun = {place: "".join(pieces) for place, pieces in self._texts.items()}
        for choice in answers_of(end):
            _tell_refusal_apart(begun, choice)
            for whole in _whole(choice):
                sent = begun.pop((whole.choice, whole.kind, whole.part), None)
                if not whole.text.startswith(sent or ""):
                    return None
                rest = whole.text[len(sent or "") :]
                if rest or (sent is None and whole.kind is PartKind.TOOL_CALL):
                    opens = sent is None
                    missing.append(
                        HeardPiece(
                            whole.kind, whole.choice, whole.part, rest, whole.call_id if opens else None,
                            whole.name if opens else None,
                        )
                    )  # fmt: skip
        # A call that was cut off at the limit is no part of the answer; its finish reason says so.
        cut = end.finish_reason == "length"
        gone = any(text and not (cut and kind is PartKind.TOOL_CALL) for (_, kind, _), text in begun.items())
        return None if gone else missing


def _tell_refusal_apart(begun: dict[tuple[int, PartKind, int], str], choice: AnswerChoice) -> None:
    """A stream's text says only at its end from where on the model declined: a refusal continues the text."""
    place, refused = (choice.index, PartKind.TEXT, 0), (choice.index, PartKind.REFUSAL, 0)
    text, sent = texts(choice.parts, PartKind.TEXT), begun.get(place, "")
    if len(sent) > len(text) and sent.startswith(text) and texts(choice.parts, PartKind.REFUSAL):
        begun[place] = text
        begun[refused] = sent[len(text) :] + begun.get(refused, "")


def _whole(choice: AnswerChoice) -> Iterator[HeardPiece]:
    """Its parts, each as one piece; texts of one kind are one part, since chunks do not tell them apart."""
    for kind in (PartKind.REASONING, PartKind.TEXT, PartKind.REFUSAL):
        if text := texts(choice.parts, kind):
            yield HeardPiece(kind, choice.index, 0, text, None, None)
    for place, call in enumerate(calls(choice)):
        function = call["function"]
        yield HeardPiece(PartKind.TOOL_CALL, choice.index, place, function["arguments"], call["id"], function["name"])


def pieces_of(delta: Delta) -> list[HeardPiece]:
    """The pieces of an update in the order in which chunks say them; texts of one kind are one part."""
    pieces = [
        piece if piece.kind is PartKind.TOOL_CALL else replace(piece, part=0)
        for piece in delta.pieces
        # Signatures are told when the answer is whole.
        if piece.text or piece.kind is PartKind.TOOL_CALL
    ]
    text = [HeardPiece(PartKind.TEXT, 0, 0, delta.text, None, None)] if delta.text else []
    first = [piece for piece in pieces if piece.kind is PartKind.REASONING]
    return [*first, *text, *(piece for piece in pieces if piece.kind is not PartKind.REASONING)]


def too_late(task_id: str) -> ChatError:
    """The error of a wait that was too short."""
    why = f"There is no answer yet and this request has timed out: GET /v1/tasks/{task_id} will return it."
    return ChatError(Refusal(504, "answer-timeout", why), NO_RETRY)


def broken_off(task_id: str) -> ChatError:
    """The error of a stream whose pieces turned out to be no part of the answer."""
    why = (
        "The attempt being streamed failed, and another attempt gave a different answer: "
        f"GET /v1/tasks/{task_id} shows the whole answer."
    )
    return ChatError(Refusal(502, "stream-broken", why), NO_RETRY)


def answer_sealed(error: ContentSealed) -> ChatError:
    """The error of an answer that is sealed."""
    return ChatError(Refusal(502, "answer-sealed", f"The answer cannot be shown here: {error}"), NO_RETRY)
