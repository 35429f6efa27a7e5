"""From the end of a task to a message of Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import AnswerChoice, Citation, Content, MessagePart, PartKind, TaskStatus, Usage

from headrace_intake.decide.anthropic.thoughts import outward
from headrace_intake.decide.chat_answers import model_name, provenance
from headrace_intake.decide.choices import answers_of
from headrace_intake.decide.views import TaskView

_STOP_REASONS: Final[Mapping[str, str]] = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "content_filter": "refusal",
}


def message_id(task_id: str) -> str:
    """Message id in Anthropic's format."""
    return f"msg_{task_id}"


def message(end: TaskView, *, shows_thoughts: bool = True) -> dict[str, Any]:
    """The body of a non-streamed answer. Raises ContentSealed."""
    choice = answers_of(end)[0]
    return {
        "id": message_id(end.task_id),
        "type": "message",
        "role": "assistant",
        "model": model_name(end) or end.requested_model or "auto",
        "content": content(choice, shows_thoughts=shows_thoughts),
        **stopped(end),
        "usage": usage(end),
        "headrace": provenance(end),
    }


def stopped(end: TaskView) -> dict[str, Any]:
    """Why the answer ended. Raises ContentSealed."""
    choice = answers_of(end)[0]
    text = None if choice.stop_sequence is None else text_of(choice.stop_sequence)
    if end.status == TaskStatus.REFUSED:
        return {"stop_reason": "refusal", "stop_sequence": None}
    reason = _STOP_REASONS.get(choice.finish_reason or "", "end_turn" if text is None else "stop_sequence")
    return {"stop_reason": reason, "stop_sequence": text if reason == "stop_sequence" else None}


def content(choice: AnswerChoice, *, shows_thoughts: bool) -> list[dict[str, Any]]:
    """The content blocks. Raises ContentSealed."""
    blocks = [block(part, shows_thoughts=shows_thoughts) for part in choice.parts]
    cited = [citation(each) for each in choice.citations]
    last = next((each for each in reversed(blocks) if each["type"] == "text"), None)
    if cited and last is not None:
        last["citations"] = cited
    return blocks


def block(part: MessagePart, *, shows_thoughts: bool) -> dict[str, Any]:
    """A part of an answer as a content block. Raises ContentSealed."""
    match part.kind:
        case PartKind.TOOL_CALL:
            return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": json.loads(arguments_of(part))}
        case PartKind.REASONING:
            signature = outward(part.provider, _text(part.signature))
            if part.content is None:
                return {"type": "redacted_thinking", "data": signature}
            thought = text_of(part.content) if shows_thoughts else ""
            return {"type": "thinking", "thinking": thought, "signature": signature}
        case _:
            return {"type": "text", "text": _text(part.content)}


def arguments_of(call: MessagePart) -> str:
    """The arguments of a tool call, as JSON. Raises ContentSealed."""
    return _text(call.content) or "{}"


def citation(cited: Citation) -> dict[str, Any]:
    """A source in Anthropic's terms: a page of the web, or a place in a document. Raises ContentSealed."""
    text, title = _text(cited.text), _text(cited.title) or None
    if cited.url is not None:
        return {
            "type": "web_search_result_location", "url": text_of(cited.url), "title": title, "cited_text": text,
            "encrypted_index": "",
        }  # fmt: skip
    return {
        "type": "char_location", "cited_text": text, "document_index": 0, "document_title": title,
        "start_char_index": cited.start or 0, "end_char_index": cited.end or 0,
    }  # fmt: skip


def usage(end: TaskView) -> dict[str, Any]:
    """Tokens of all attempts, as Anthropic counts them: what was read from its cache, or written to it, apart."""
    tokens = end.usage or Usage()
    written = tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens
    return {
        "input_tokens": max(0, tokens.input_tokens - tokens.cached_input_tokens - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": tokens.cached_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h_tokens,
        },
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning_tokens},
    }


def _text(content: Content | None) -> str:
    return "" if content is None else text_of(content)
