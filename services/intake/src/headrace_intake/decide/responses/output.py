"""From a task to OpenAI's response object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import (
    AnswerChoice,
    Content,
    MessagePart,
    PartKind,
    ResponseFormatKind,
    TaskStatus,
    ToolChoiceMode,
    Usage,
)

from headrace_intake.decide.chat_answers import error_of, model_name, provenance
from headrace_intake.decide.choices import answers_of, texts
from headrace_intake.decide.responses.items import sealed_thoughts
from headrace_intake.decide.responses.turns import KeptTurn, response_id
from headrace_intake.decide.views import TaskView

Item = dict[str, Any]

_EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_LENGTHS: Final = frozenset({"low", "medium", "high"})
_SUMMARIES: Final = frozenset({"auto", "concise", "detailed"})
_TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})
_ERROR_CODES: Final[Mapping[str, str]] = {
    "rate_limited": "rate_limit_exceeded",
    "too_many_live_tasks": "rate_limit_exceeded",
    "context_too_long": "invalid_prompt",
    "context_too_small": "invalid_prompt",
    "invalid_request": "invalid_prompt",
    "request_rejected": "invalid_prompt",
}
"""Codes of OpenAI's type for errors of responses, which is a closed list; anything else is a `server_error`."""
QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
_DECLINED: Final = "The model declined to answer."


def response(kept: KeptTurn, view: TaskView, output: Sequence[Item] | None = None, status: str = IN_PROGRESS) -> Item:
    """The response object.

    Args:
        output: Its items, if they are known already.
        status: Of a task that has not ended.

    Raises ContentSealed.
    """
    state = status_of(view) if view.ended else status
    answered = state in ("completed", "incomplete")
    if output is None:
        output = output_items(view) if answered else ()
    return {
        "id": response_id(view.task_id),
        "object": "response",
        "created_at": view.submitted_at // 1000,
        "completed_at": view.completed_at // 1000 if state == "completed" and view.completed_at is not None else None,
        "status": state,
        "error": _error(view) if view.ended else None,
        "incomplete_details": {"reason": _incomplete(view)} if state == "incomplete" else None,
        "model": (model_name(view) if view.ended else "") or _requested(view),
        "output": list(output),
        "usage": usage(view) if view.ended else None,
        **echo(kept),
        "metadata": dict(view.labels),
        "user": view.user or None,
        "headrace": provenance(view) if view.ended else {"task_id": view.task_id},
    }


def echo(kept: KeptTurn) -> Item:
    """What was asked, as responses tell it. Raises ContentSealed."""
    asked, sampling, turn, settings = kept.options, kept.sampling, kept.turn, kept.settings
    return {
        "background": turn.background,
        "conversation": None if turn.conversation is None else {"id": turn.conversation},
        "instructions": None if kept.instructions is None else text_of(kept.instructions.content),
        "max_output_tokens": sampling.max_output_tokens,
        "max_tool_calls": _number(settings.get("max_tool_calls")),
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None if turn.previous_task_id is None else response_id(turn.previous_task_id),
        "prompt_cache_key": _word(settings.get("prompt_cache_key")),
        "reasoning": {
            "effort": asked.reasoning_effort if asked.reasoning_effort in _EFFORTS else None,
            "summary": settings.get("summary") if settings.get("summary") in _SUMMARIES else None,
        },
        "safety_identifier": _word(settings.get("safety_identifier")),
        "service_tier": asked.service_tier if asked.service_tier in _TIERS else "default",
        "store": turn.store,
        "temperature": sampling.temperature,
        "text": {"format": _format(kept), **_verbosity(asked.verbosity)},
        "tool_choice": _tool_choice(kept),
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": None if tool.description is None else text_of(tool.description),
                "parameters": None if tool.parameters is None else json.loads(text_of(tool.parameters)),
                "strict": tool.strict,
            }
            for tool in asked.tools
        ],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
    }


def _requested(view: TaskView) -> str:
    return view.requested_model or (f"role:{view.role}" if view.role else "auto")


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _verbosity(verbosity: str | None) -> dict[str, str]:
    return {"verbosity": verbosity if verbosity in _LENGTHS else "medium"}


def _format(kept: KeptTurn) -> Item:
    form = kept.options.response_format
    if form is None or form.kind is not ResponseFormatKind.JSON_SCHEMA or form.schema is None:
        return {"type": "json_object" if kept.sampling.json else "text"}
    return {
        "type": "json_schema",
        "name": form.name or "",
        "description": None if form.description is None else text_of(form.description),
        "schema": json.loads(text_of(form.schema)),
        "strict": form.strict,
    }


def _tool_choice(kept: KeptTurn) -> Any:
    choice = kept.options.tool_choice
    if choice is None:
        return "auto"
    if not choice.names:
        return choice.mode.value
    if choice.mode is ToolChoiceMode.REQUIRED and len(choice.names) == 1:
        return {"type": "function", "name": choice.names[0]}
    named = [{"type": "function", "name": name} for name in choice.names]
    return {"type": "allowed_tools", "mode": choice.mode.value, "tools": named}


def status_of(end: TaskView) -> str:
    """OpenAI's status of a task that has ended."""
    match TaskStatus(end.status):
        case TaskStatus.SUCCEEDED:
            return "incomplete" if _incomplete(end) else "completed"
        case TaskStatus.REFUSED:
            return "completed"
        case TaskStatus.CANCELLED:
            return "cancelled"
        case TaskStatus.FAILED | TaskStatus.EXPIRED:
            return "failed"


def _incomplete(end: TaskView) -> str | None:
    reason = answers_of(end)[0].finish_reason or end.finish_reason
    return {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason or "")


def _error(end: TaskView) -> Item | None:
    error = error_of(end)
    if error is None or end.status == TaskStatus.CANCELLED:
        return None
    code = _ERROR_CODES.get(error.refusal.kind, "server_error")
    return {"code": code, "message": f"{error.refusal.detail} ({error.refusal.kind})"}


def usage(end: TaskView) -> Item:
    """Tokens of all attempts."""
    tokens = end.usage or Usage()
    return {
        "input_tokens": tokens.input_tokens,
        "input_tokens_details": {
            "cached_tokens": tokens.cached_input_tokens,
            "cache_write_tokens": tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens,
        },
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
    }


def answer_parts(end: TaskView) -> tuple[MessagePart, ...]:
    """What the model said, with an answer in place of which it declined as a refusal."""
    choice = answers_of(end)[0]
    if end.status != TaskStatus.REFUSED or any(part.kind is PartKind.REFUSAL for part in choice.parts):
        return choice.parts
    why = texts(choice.parts, PartKind.TEXT) or _DECLINED
    refusal = MessagePart(kind=PartKind.REFUSAL, content=Content(data=why.encode()))
    return (*(part for part in choice.parts if part.kind is not PartKind.TEXT), refusal)


def output_items(end: TaskView) -> list[Item]:
    """The items of an answer, in its order: texts that follow each other are one message. Raises ContentSealed."""
    choice = answers_of(end)[0]
    counts: dict[str, int] = {}

    def number(kind: str) -> int:
        counts[kind] = counts.get(kind, -1) + 1
        return counts[kind]

    items: list[Item] = []
    for kind, group in groupby(answer_parts(end), key=lambda part: _item_kind(part.kind)):
        parts = list(group)
        if kind == "reasoning":
            items.append(_reasoning(end.task_id, number(kind), parts))
        elif kind == "function_call":
            items += [_call(end.task_id, number(kind), part) for part in parts]
        elif kind == "message":
            items.append(_message(end.task_id, number(kind), parts))
    if not any(item["type"] in ("message", "function_call") for item in items):
        items.append(message_item(end.task_id, 0, [output_text("")]))
    messages = [item for item in items if item["type"] == "message"]
    if messages and messages[0]["content"] and messages[0]["content"][0]["type"] == "output_text":
        first = messages[0]["content"][0]
        first["logprobs"], first["annotations"] = _logprobs(choice), _annotations(choice)
    if messages and _incomplete(end):
        messages[-1]["status"] = "incomplete"
    return items


def _item_kind(kind: PartKind) -> str:
    match kind:
        case PartKind.REASONING:
            return "reasoning"
        case PartKind.TOOL_CALL:
            return "function_call"
        case PartKind.TEXT | PartKind.REFUSAL:
            return "message"
        case _:
            return "other"


def item_id(kind: str, task_id: str, number: int) -> str:
    """Id of an item of an answer."""
    return f"{ {'message': 'msg', 'function_call': 'fc', 'reasoning': 'rs'}[kind] }_{task_id}_{number}"


def _reasoning(task_id: str, number: int, parts: Sequence[MessagePart]) -> Item:
    text = texts(parts, PartKind.REASONING)
    return reasoning_item(task_id, number, text, sealed_thoughts(parts))


def reasoning_item(task_id: str, number: int, text: str, sealed: str | None, status: str = "completed") -> Item:
    """What the model thought."""
    return {
        "id": item_id("reasoning", task_id, number),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
        "encrypted_content": sealed,
        "status": status,
    }


def _call(task_id: str, number: int, part: MessagePart) -> Item:
    arguments = "{}" if part.content is None else text_of(part.content)
    return call_item(task_id, number, part.call_id or "", part.name or "", arguments)


def call_item(task_id: str, number: int, call_id: str, name: str, arguments: str, status: str = "completed") -> Item:
    """A call of a function."""
    return {
        "id": item_id("function_call", task_id, number),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _message(task_id: str, number: int, parts: Sequence[MessagePart]) -> Item:
    content = []
    for kind, make in ((PartKind.TEXT, output_text), (PartKind.REFUSAL, output_refusal)):
        if any(part.kind is kind for part in parts):
            content.append(make(texts(parts, kind)))
    return message_item(task_id, number, content)


def message_item(task_id: str, number: int, content: Sequence[Item], status: str = "completed") -> Item:
    """What the model said."""
    return {
        "id": item_id("message", task_id, number),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": list(content),
    }


def output_text(text: str) -> Item:
    """A text of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def output_refusal(text: str) -> Item:
    """What was said in place of an answer."""
    return {"type": "refusal", "refusal": text}


def _annotations(choice: AnswerChoice) -> list[Item]:
    return [
        {
            "type": "url_citation",
            "url": _text(cited.url),
            "title": _text(cited.title),
            "start_index": cited.start or 0,
            "end_index": cited.end or 0,
        }
        for cited in choice.citations
    ]


def _logprobs(choice: AnswerChoice) -> list[Item]:
    if choice.logprobs is None:
        return []
    found = json.loads(text_of(choice.logprobs))
    return [
        {**_probability(each), "top_logprobs": [_probability(other) for other in each.get("top_logprobs") or ()]}
        for each in found or ()
    ]


def _probability(each: Mapping[str, Any]) -> Item:
    token = str(each.get("token", ""))
    return {"token": token, "logprob": each.get("logprob", 0.0), "bytes": each.get("bytes") or list(token.encode())}


def _text(content: Content | None) -> str:
    return "" if content is None else text_of(content)
