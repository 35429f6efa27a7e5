"""From the end of a task to what Ollama's clients expect: an answer, or the parts of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import AnswerChoice, PartKind, Usage

from headrace_intake.decide.chat_answers import provenance
from headrace_intake.decide.choices import answers_of, texts
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.views import TaskView

_NS_IN_A_MS: Final = 1_000_000
_SAID: Final = (PartKind.TEXT, PartKind.REFUSAL)
"""This API has no word for a refusal: it is what the model says."""


def created_at(ms: int) -> str:
    """A time as Ollama writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class OllamaAnswer:
    """Writes one answer, whole or in parts, to a chat or to a prompt.

    Attributes:
        model: As the caller has named it.
    """

    model: str
    chat: bool

    def piece(self, piece: HeardPiece, now_ms: int) -> dict[str, Any]:
        """The next text, or the next of what the model thinks."""
        thought = piece.kind is PartKind.REASONING
        return self._part(now_ms, "" if thought else piece.text, piece.text if thought else "")

    def nothing(self, now_ms: int) -> dict[str, Any]:
        """A part without anything in it, which shows that the connection lives."""
        return self._part(now_ms, "")

    def calls(self, calls: list[dict[str, Any]], now_ms: int) -> dict[str, Any]:
        """A part with tool calls: they come whole in this API."""
        part = self._part(now_ms, "")
        part["message"]["tool_calls"] = calls
        return part

    def loaded(self, now_ms: int) -> dict[str, Any]:
        """The answer to a request that only has a model loaded: nodes load theirs when they need them."""
        return {**self._part(now_ms, ""), "done": True, "done_reason": "load"}

    def whole(self, end: TaskView) -> dict[str, Any]:
        """The answer to a request that is not streamed. Raises ContentSealed."""
        (choice, *_) = answers_of(end)
        part = self._part(_ended_at(end), texts(choice.parts, *_SAID), texts(choice.parts, PartKind.REASONING))
        if calls := tool_calls(choice):
            part["message"]["tool_calls"] = calls
        return part | self._end(end, choice)

    def last(self, end: TaskView) -> dict[str, Any]:
        """The last part of a stream. Raises ContentSealed."""
        (choice, *_) = answers_of(end)
        return self._part(_ended_at(end), "") | self._end(end, choice)

    def _part(self, now_ms: int, text: str, thinking: str = "") -> dict[str, Any]:
        head = {"model": self.model, "created_at": created_at(now_ms)}
        thought = {"thinking": thinking} if thinking else {}
        said = (
            {"message": {"role": "assistant", "content": text, **thought}}
            if self.chat
            else {"response": text, **thought}
        )
        return {**head, **said, "done": False}

    def _end(self, end: TaskView, choice: AnswerChoice) -> dict[str, Any]:
        tokens = end.usage or Usage()
        told = {} if choice.logprobs is None else {"logprobs": json.loads(text_of(choice.logprobs))}
        return {
            **told,
            "done": True,
            "done_reason": "length" if choice.finish_reason == "length" else "stop",
            **durations(end),
            "prompt_eval_count": tokens.input_tokens,
            "eval_count": tokens.output_tokens,
            "headrace": provenance(end),
        }


def durations(end: TaskView) -> dict[str, int]:
    """Durations in nanoseconds. How a call of a model divides into reading and writing is not known: all is writing."""
    total = max(1, _ended_at(end) - end.submitted_at)
    return {
        "total_duration": total * _NS_IN_A_MS,
        "load_duration": 0,
        "prompt_eval_duration": 0,
        "eval_duration": max(1, round((end.model_ms or 0) * _NS_IN_A_MS)),
    }


def tool_calls(choice: AnswerChoice) -> list[dict[str, Any]]:
    """Its tool calls, with their arguments as objects. Raises ContentSealed."""
    made = [part for part in choice.parts if part.kind is PartKind.TOOL_CALL]
    return [
        {
            "id": part.call_id,
            "function": {
                "index": place,
                "name": part.name,
                "arguments": {} if part.content is None else json.loads(text_of(part.content) or "{}"),
            },
        }
        for place, part in enumerate(made)
    ]


def embedded(model: str, end: TaskView) -> Mapping[str, Any]:
    """What is told beside vectors."""
    timed = durations(end)
    told = {name: timed[name] for name in ("total_duration", "load_duration")}
    read = (end.usage or Usage()).input_tokens
    return {"model": model, **told, "prompt_eval_count": read, "headrace": provenance(end)}


def _ended_at(end: TaskView) -> int:
    return end.completed_at if end.completed_at is not None else end.submitted_at
