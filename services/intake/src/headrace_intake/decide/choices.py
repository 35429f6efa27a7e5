"""Answers that are more than one text: as the view stores them, and as callers of the APIs see them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from headrace_contracts.content import ContentSealed, text_of
from headrace_contracts.events import AnswerChoice, Citation, Content, MessagePart, PartKind

from headrace_intake.decide.views import TaskView


def stored(choices: Sequence[AnswerChoice]) -> str | None:
    """JSON for the view, bytes in base64; None if there is nothing beyond the answer's text."""
    if not choices:
        return None
    return as_json([choice.to_avro() for choice in choices])


def loaded(text: str | None) -> tuple[AnswerChoice, ...]:
    """The answers from the view. Those that an older release stored lack the fields that came later."""
    return () if not text else tuple(AnswerChoice.from_avro(_with_later_fields(one)) for one in from_json(text))


_CHOICE: Final = AnswerChoice().to_avro()
_PART: Final = MessagePart(kind=PartKind.TEXT).to_avro()
_CITATION: Final = Citation().to_avro()


def _with_later_fields(choice: dict[str, Any]) -> dict[str, Any]:
    parts = [_PART | part for part in choice["parts"]]
    return _CHOICE | choice | {"parts": parts, "citations": [_CITATION | each for each in choice["citations"]]}


def as_json(value: Any) -> str:
    """Avro data as JSON, bytes in base64."""
    return json.dumps(value, default=_encoded, separators=(",", ":"))


def from_json(text: str) -> Any:
    """The Avro data."""
    return _decoded(json.loads(text))


def _encoded(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is not in an answer")


def _decoded(value: Any) -> Any:
    """The same with the bytes of contents."""
    if isinstance(value, dict):
        if value.keys() == {"cipher", "data"}:
            return {"cipher": value["cipher"], "data": base64.b64decode(value["data"])}
        return {name: _decoded(one) for name, one in value.items()}
    return [_decoded(one) for one in value] if isinstance(value, list) else value


def answers_of(end: TaskView) -> tuple[AnswerChoice, ...]:
    """All answers of a task's end, the one that is only a text too."""
    if end.choices:
        return end.choices
    refused = end.status == "refused"
    kind = PartKind.REFUSAL if refused else PartKind.TEXT
    parts = () if end.answer is None else (MessagePart(kind=kind, content=end.answer),)
    return (AnswerChoice(index=0, parts=parts, finish_reason="refusal" if refused else end.finish_reason),)


def texts(parts: Iterable[MessagePart], *kinds: PartKind) -> str:
    """The texts of parts of these kinds, joined. Raises ContentSealed."""
    return "".join(text_of(part.content) for part in parts if part.kind in kinds and part.content is not None)


def choices_document(view: TaskView) -> list[dict[str, Any]] | None:
    """The answers as GET /v1/tasks/{id} returns them; None if there is none, or they are sealed."""
    if view.answer is None and not view.choices:
        return None
    try:
        return [
            {
                "index": choice.index,
                "message": message(choice),
                "finish_reason": choice.finish_reason,
                "logprobs": logprobs(choice),
            }
            for choice in answers_of(view)
        ]
    except ContentSealed:
        return None


def calls(choice: AnswerChoice) -> list[dict[str, Any]]:
    """Its tool calls in OpenAI's form. Raises ContentSealed."""
    return [
        {
            "id": part.call_id,
            "type": "function",
            "function": {"name": part.name, "arguments": "{}" if part.content is None else text_of(part.content)},
        }
        for part in choice.parts
        if part.kind is PartKind.TOOL_CALL
    ]


def message(choice: AnswerChoice) -> dict[str, Any]:
    """An answer as a message of OpenAI's chat API. Raises ContentSealed.

    `reasoning_content` is what most servers of this family call it; `reasoning_details`, OpenRouter's name, also holds
    what a provider signed it with, so that sending it back lets the model continue its thought.
    """
    text, refusal = texts(choice.parts, PartKind.TEXT), texts(choice.parts, PartKind.REFUSAL)
    called = calls(choice)
    said: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (called or refusal) else None,
        "refusal": refusal or None,
    }
    if called:
        said["tool_calls"] = called
    if choice.citations:
        said["annotations"] = [
            {
                "type": "url_citation",
                "url_citation": {
                    "url": _text(cited.url), "title": _text(cited.title), "start_index": cited.start or 0,
                    "end_index": cited.end or 0,
                },
            }
            for cited in choice.citations
        ]  # fmt: skip
    return said | reasoning(choice.parts)


def reasoning(parts: Iterable[MessagePart]) -> dict[str, Any]:
    """What the model thought, as fields of a message. Raises ContentSealed."""
    thoughts = [part for part in parts if part.kind is PartKind.REASONING]
    if not thoughts:
        return {}
    details = [
        {
            "type": "reasoning.text",
            "text": None if part.content is None else text_of(part.content),
            "signature": None if part.signature is None else text_of(part.signature),
            "format": part.provider,
            "index": place,
        }
        for place, part in enumerate(thoughts)
    ]
    return {"reasoning_content": texts(thoughts, PartKind.REASONING), "reasoning_details": details}


def logprobs(choice: AnswerChoice) -> Mapping[str, Any] | None:
    """Log probabilities in OpenAI's form; None if there are none. Raises ContentSealed."""
    return None if choice.logprobs is None else {"content": json.loads(text_of(choice.logprobs)), "refusal": None}


def _text(content: Content | None) -> str:
    return "" if content is None else text_of(content)
