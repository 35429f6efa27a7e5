"""Tasks as records: what a caller asks, and what came of it. The HTTP API reads and writes the same in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from headrace_contracts import events
from headrace_contracts.cargo import content_bytes
from headrace_contracts.content import ContentSealed, plain, text_of
from headrace_contracts.designation import DesignationInvalid, designation
from headrace_contracts.events import Content, Lane, Mode, PartKind, Privacy, TaskCompleted, TaskSubmitted
from headrace_contracts.ids import route_key
from headrace_contracts.limits import NANODOLLARS_IN_A_DOLLAR
from headrace_contracts.narrowing import routing_of

from headrace.message_documents import message_of
from headrace.messages import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Prompt,
    Reasoning,
    RefusalText,
    Text,
    ToolCall,
    ToolResult,
    conversation_of,
)
from headrace.requests import TaskOptions
from headrace.results import (
    AnswerChoice,
    Cascade,
    Citation,
    Ensemble,
    Failure,
    Task,
    TeamMember,
    TrailStep,
    Usage,
)
from headrace.tools import tools_of


def conversation_events(prompt: Prompt) -> tuple[events.Message, ...]:
    """The messages of a prompt as the record has them. Raises ValueError."""
    return tuple(
        _message_event(said if isinstance(said, Message) else message_of(said)) for said in conversation_of(prompt)
    )


def _message_event(message: Message) -> events.Message:
    role = "system" if message.role == "developer" else message.role
    name = None if message.name is None else plain(message.name)
    if not message.parts or (len(message.parts) == 1 and message.parts == (Text(message.text),)):
        return events.Message(role=role, content=plain(message.text), name=name)
    parts = [event for part in message.parts for event in _part_events(part)]
    return events.Message(role=role, content=plain(""), parts=tuple(parts), name=name)


def _part_events(part: Part) -> list[events.MessagePart]:
    match part:
        case Text():
            return [events.MessagePart(kind=PartKind.TEXT, content=plain(part.text), cache_seconds=part.cache_seconds)]
        case Image():
            return [_image_event(part)]
        case Audio():
            content = Content(data=part.data)
            return [events.MessagePart(kind=PartKind.AUDIO, content=content, media_type=part.media_type)]
        case File():
            return [
                events.MessagePart(
                    kind=PartKind.FILE, content=Content(data=part.data), media_type=part.media_type,
                    filename=None if part.filename is None else plain(part.filename),
                )
            ]  # fmt: skip
        case ToolCall():
            arguments = plain(part.arguments or "{}")
            return [events.MessagePart(kind=PartKind.TOOL_CALL, content=arguments, call_id=part.id, name=part.name)]
        case ToolResult():
            said = events.MessagePart(
                kind=PartKind.TOOL_RESULT, content=plain(part.text), call_id=part.call_id, is_error=part.is_error
            )
            return [said, *(_image_event(image, part.call_id) for image in part.images)]
        case RefusalText():
            return [events.MessagePart(kind=PartKind.REFUSAL, content=plain(part.text))]
        case Reasoning(provider=None):
            return []  # without the provider that made it, nobody could be given it back
        case Reasoning():
            signature = None if part.signature is None else plain(part.signature)
            return [
                events.MessagePart(
                    kind=PartKind.REASONING, content=plain(part.text), provider=part.provider, signature=signature
                )
            ]


def _image_event(image: Image, call_id: str | None = None) -> events.MessagePart:
    inline = image.url is None
    return events.MessagePart(
        kind=PartKind.IMAGE, content=Content(data=image.data) if inline else None,
        media_type=image.media_type if inline else None, url=plain(image.url) if image.url is not None else None,
        detail=image.detail, call_id=call_id,
    )  # fmt: skip


def fields_of(options: TaskOptions, now_ms: int) -> dict[str, Any]:
    """The fields of `TaskSubmitted` that say what is asked of the task. Raises ValueError."""
    try:
        role, model = designation(options.get("model"), options.get("role"))
    except DesignationInvalid as error:
        raise ValueError(str(error)) from None
    privacy, lane, mode = options.get("privacy"), options.get("priority"), options.get("mode")
    budget, stop, allow_cached = options.get("budget"), options.get("stop"), options.get("allow_cached")
    form = options.get("response_format") or {"type": "text"}
    provider = options.get("provider")
    return {
        "role": role,
        "model": model,
        "kind": options.get("kind") or "task",
        "privacy": None if privacy is None else Privacy(privacy),
        "lane": None if lane is None else Lane(lane),
        "mode": None if mode is None else Mode(mode),
        "preferred_provider": options.get("preferred_provider"),
        "routing": routing_of(provider) if provider else None,
        "budget_nanodollars": None if budget is None else _nanodollars(budget),
        "deadline_at": _deadline_at(options.get("deadline"), now_ms),
        "session": options.get("session"),
        "subject": options.get("subject"),
        "labels": dict(options.get("labels") or {}),
        "allow_cached": True if allow_cached is None else allow_cached,
        "sampling": events.Sampling(
            max_output_tokens=options.get("max_tokens"),
            temperature=options.get("temperature"),
            top_p=options.get("top_p"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            seed=options.get("seed"),
            json=bool(options.get("json")) or form.get("type") != "text",
        ),
        "options": options_event(options),
    }


def options_event(options: TaskOptions) -> events.Options | None:
    """What is asked of the model beyond messages and sampling; None if nothing is. Raises ValueError."""
    tools = tuple(
        events.Tool(
            name=tool.name,
            description=plain(tool.description) if tool.description else None,
            parameters=None if tool.parameters is None else _as_json(tool.parameters),
            strict=tool.strict,
        )
        for tool in tools_of(options.get("tools") or ())
    )
    queries = options.get("queries") or ()
    logprobs, top_logprobs = options.get("logprobs"), options.get("top_logprobs")
    made = events.Options(
        tools=tools,
        tool_choice=_tool_choice(options.get("tool_choice"), tools),
        parallel_tool_calls=options.get("parallel_tool_calls") if tools else None,
        response_format=_response_format(options.get("response_format")),
        choices=options.get("n") or 1,
        presence_penalty=options.get("presence_penalty"),
        frequency_penalty=options.get("frequency_penalty"),
        top_k=options.get("top_k"),
        top_logprobs=(top_logprobs or 0) if logprobs else None,
        logit_bias=dict(options.get("logit_bias") or {}),
        reasoning_effort=options.get("reasoning_effort"),
        verbosity=options.get("verbosity"),
        service_tier=options.get("service_tier"),
        queries=tuple(plain(one) for one in ((queries,) if isinstance(queries, str) else queries)),
    )
    return None if made == events.Options() else made


def _tool_choice(asked: str | Mapping[str, Any] | None, tools: Sequence[events.Tool]) -> events.ToolChoice | None:
    mode, names = events.ToolChoiceMode.REQUIRED, list[str]()
    match asked:
        case None:
            return None
        case "none" | "auto" | "required":
            mode = events.ToolChoiceMode(str(asked))
        case str():
            names = [asked]
        case {"type": "function", "function": {"name": str(name)}}:
            names = [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(how), "tools": list(allowed)}}:
            mode, names = events.ToolChoiceMode(how), [str(one["function"]["name"]) for one in allowed]
        case _:
            raise ValueError("tool_choice: none, auto, required, the name of a tool, or an object as OpenAI's")
    there = {tool.name for tool in tools}
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"tool_choice: there is no tool {unknown[0]} among the tools")
    return events.ToolChoice(mode=mode, names=tuple(names)) if tools else None


def _response_format(form: Mapping[str, Any] | None) -> events.ResponseFormat | None:
    match form:
        case None | {"type": "text" | "json_object"}:
            return None  # one JSON value of any form is asked for by the sampling
        case {"type": "json_schema", "json_schema": {"name": str(name)} as described}:
            description = described.get("description")
            return events.ResponseFormat(
                kind=events.ResponseFormatKind.JSON_SCHEMA,
                name=name,
                description=plain(str(description)) if description else None,
                schema=_as_json(described.get("schema") or {}),
                strict=bool(described.get("strict")),
            )
    raise ValueError("response_format: an object of type text, json_object or json_schema, as OpenAI's")


def _as_json(value: Any) -> Content:
    return plain(json.dumps(value, ensure_ascii=False))


def _nanodollars(budget: Decimal | float) -> int:
    return int((Decimal(str(budget)) * NANODOLLARS_IN_A_DOLLAR).to_integral_value(rounding=ROUND_FLOOR))


def _deadline_at(deadline: float | datetime | None, now_ms: int) -> int | None:
    if deadline is None:
        return None
    if not isinstance(deadline, datetime):
        return now_ms + max(1, int(deadline * 1_000))
    if deadline.tzinfo is None:
        raise ValueError("the deadline needs a time zone, such as datetime.now(UTC) + timedelta(minutes=5)")
    return int(deadline.timestamp() * 1_000)


def record_key(task: TaskSubmitted) -> bytes:
    """The key of all records of a task: its session if it has one, which keeps the session's order."""
    said = [(message.role, content_bytes(message)) for message in task.messages]
    return route_key(tenant=task.tenant, session=task.session, role=task.role, model=task.model, messages=said).encode()


def task_of_completion(end: TaskCompleted, requested_model: str | None = None) -> Task:
    """The ended task, as the HTTP API tells it. What is sealed is left out."""
    choices = _choices(end)
    return Task(
        id=end.task_id,
        status=str(end.status),
        kind=end.kind,
        role=end.role,
        requested_model=requested_model,
        user=end.user,
        session=end.session,
        subject=end.subject,
        labels=dict(end.labels),
        privacy=str(end.privacy),
        priority=str(end.lane),
        submitted_at=_time(end.submitted_at),
        completed_at=_time(end.completed_at),
        answer=_readable(end.answer),
        finish_reason=end.finish_reason,
        choices=choices,
        failure=None if end.failure is None else Failure(code=end.failure.code, message=end.failure.message),
        provider=end.provider,
        model=end.model,
        node=end.node,
        simulated=end.simulated,
        served_from=str(end.served_from),
        source_task_id=end.source_task_id,
        usage=Usage(**end.usage.to_avro()),
        cost_nanodollars=end.cost_nanodollars,
        attempts=end.attempts,
        model_ms=end.model_ms,
        trail=tuple(
            TrailStep(at=_time(one.at), step=one.step, provider=one.provider, model=one.model, reason=one.reason)
            for one in end.trail
        ),
        policy_version=end.policy_version,
        ensemble=_ensemble(end.ensemble),
        cascade=_cascade(end.cascade),
    )


def _ensemble(told: events.EnsembleSummary | None) -> Ensemble | None:
    if told is None:
        return None
    return Ensemble(
        members=tuple(map(_member, told.members)),
        answered=told.answered,
        combined_by=told.combined_by,
        coherence=told.coherence,
        goal=told.goal,
    )


def _cascade(told: events.CascadeSummary | None) -> Cascade | None:
    if told is None:
        return None
    return Cascade(
        members=tuple(map(_member, told.members)),
        rungs=told.rungs,
        rung=told.rung,
        sufficient=told.sufficient,
        confidence=told.confidence,
        reason=told.reason,
        saved_nanodollars=told.saved_nanodollars,
    )


def _member(told: events.MemberSummary) -> TeamMember:
    return TeamMember(
        part=told.part,
        provider=told.provider,
        model=told.model,
        node=told.node,
        outcome=None if told.outcome is None else str(told.outcome),
        score=told.score,
        cost_nanodollars=told.cost_nanodollars,
        model_ms=told.model_ms,
        chosen=told.chosen,
    )


def _choices(end: TaskCompleted) -> tuple[AnswerChoice, ...]:
    try:
        if end.choices:
            return tuple(_choice(choice) for choice in end.choices)
        if end.answer is None:
            return ()
        said = text_of(end.answer)
    except ContentSealed:
        return ()
    part = RefusalText(said) if end.status is events.TaskStatus.REFUSED else Text(said)
    return (AnswerChoice(message=Message("assistant", (part,)), finish_reason=end.finish_reason),)


def _choice(choice: events.AnswerChoice) -> AnswerChoice:
    logprobs = None if choice.logprobs is None else json.loads(text_of(choice.logprobs))
    parts = [made for part in choice.parts if (made := _part(part)) is not None]
    return AnswerChoice(
        index=choice.index,
        message=Message("assistant", tuple(parts)),
        finish_reason=choice.finish_reason,
        logprobs=tuple(logprobs or ()),
        citations=tuple(
            Citation(url=_text(one.url), title=_text(one.title), start=one.start, end=one.end)
            for one in choice.citations
        ),
    )


def _part(part: events.MessagePart) -> Part | None:
    """What this release knows to be part of an answer."""
    match part.kind:
        case PartKind.TEXT:
            return Text(_text(part.content))
        case PartKind.REFUSAL:
            return RefusalText(_text(part.content))
        case PartKind.TOOL_CALL:
            return ToolCall(part.call_id or "", part.name or "", _text(part.content) or "{}")
        case PartKind.REASONING:
            signature = None if part.signature is None else text_of(part.signature)
            return Reasoning(_text(part.content), part.provider, signature)
    return None


def _text(content: Content | None) -> str:
    return "" if content is None else text_of(content)


def _readable(content: Content | None) -> str | None:
    try:
        return None if content is None else text_of(content)
    except ContentSealed:
        return None


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1_000, UTC)
