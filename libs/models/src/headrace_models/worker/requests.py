"""What an attempt asks of a model, read from its record. Whoever may write to Kafka may have written it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from headrace_contracts import events, model_settings
from headrace_contracts.content import bytes_of, text_of

from headrace_models.conversation import (
    AnswerSchema,
    ChatMessage,
    MediaKind,
    MediaPart,
    Part,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSelection,
    ToolSpec,
)
from headrace_models.ports import DEFAULT_MAX_OUTPUT_TOKENS, ChatRequest, EmbedRequest
from headrace_models.worker.estimates import CallSize
from headrace_models.worker.warm_prefixes import prefix_of

_ROLES: Final[dict[str, Role]] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip
_MEDIA: Final[dict[events.PartKind, MediaKind]] = {
    events.PartKind.IMAGE: "image", events.PartKind.AUDIO: "audio", events.PartKind.FILE: "file",
}  # fmt: skip
_NO_OPTIONS: Final = events.Options()
_NO_SETTINGS: Final = events.ModelSettings()
_TEMPLATE_TOKENS: Final = 16
"""What a prompt has besides its content: the marks of a model's template."""
_MEDIA_TOKENS: Final = 1_600
"""Of a picture and the like; what it costs a model has little to do with its bytes."""
_BYTES_PER_TOKEN: Final = 4


class WorkInvalid(Exception):
    """No model can be asked this. Intake lets no such task through, so another producer has written it."""


def chat_request(
    request: events.AttemptRequested,
    timeout_seconds: float,
    *,
    first_token_seconds: float,
    between_tokens_seconds: float,
) -> ChatRequest:
    """The model call that an attempt asks for. Raises WorkInvalid, ContentSealed."""
    messages = tuple(_message(message) for message in request.messages)
    if not messages:
        raise WorkInvalid("the conversation is empty")
    sampling, options, settings = request.sampling, request.options or _NO_OPTIONS, _settings(request)
    form = options.response_format
    extra = {name: _json(value, "an extra parameter") for name, value in options.extra.items()}
    return ChatRequest(
        model=request.model,
        messages=messages,
        timeout_seconds=timeout_seconds,
        first_token_seconds=first_token_seconds,
        between_tokens_seconds=between_tokens_seconds,
        max_output_tokens=sampling.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=tuple(sampling.stop),
        seed=sampling.seed,
        json=sampling.json or (form is not None and form.kind is not events.ResponseFormatKind.TEXT),
        schema=None if form is None else _schema(form),
        tools=tuple(_tool(tool) for tool in options.tools),
        tool_choice=None if options.tool_choice is None else _tool_choice(options.tool_choice),
        parallel_tool_calls=options.parallel_tool_calls,
        choices=max(1, options.choices),
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        top_k=settings.top_k if options.top_k is None and not _named(extra, "top_k") else options.top_k,
        top_logprobs=options.top_logprobs,
        logit_bias=options.logit_bias,
        reasoning_effort=options.reasoning_effort,
        reasoning_tokens=options.reasoning_tokens,
        verbosity=options.verbosity,
        service_tier=options.service_tier,
        extra=extra,
        batch=request.lane is events.Lane.BATCH,
        num_ctx=_num_ctx(extra, settings),
        keep_alive=settings.keep_alive,
        think=settings.think,
    )


def embed_request(request: events.AttemptRequested, timeout_seconds: float) -> EmbedRequest:
    """The call for vectors that an attempt asks for. Raises WorkInvalid, ContentSealed."""
    options = request.options or _NO_OPTIONS
    inputs = tuple(text_of(text) for text in options.inputs)
    if not inputs or not all(inputs):
        raise WorkInvalid("there is no text to make a vector of, or an empty one")
    settings = _settings(request)
    extra = {name: _json(value, "an extra parameter") for name, value in options.extra.items()}
    return EmbedRequest(
        model=request.model,
        inputs=inputs,
        timeout_seconds=timeout_seconds,
        dimensions=options.dimensions,
        extra=extra,
        batch=request.lane is events.Lane.BATCH,
        num_ctx=_num_ctx(extra, settings),
        keep_alive=settings.keep_alive,
    )


def _settings(request: events.AttemptRequested) -> events.ModelSettings:
    """How the router says that the model is loaded and asked. Raises WorkInvalid."""
    found = request.settings or _NO_SETTINGS
    try:
        if found.num_ctx is not None:
            model_settings.context_length("num_ctx", found.num_ctx)
        if found.keep_alive is not None:
            model_settings.duration("keep_alive", found.keep_alive)
        if found.think is not None:
            model_settings.thinking("think", found.think)
        if found.top_k is not None:
            model_settings.top_k("top_k", found.top_k)
    except model_settings.ModelSettingInvalid as error:
        raise WorkInvalid(f"the settings of the attempt: {error}") from None
    return found


def _named(extra: dict[str, Any], option: str) -> bool:
    """Whether the caller names one of Ollama's own options."""
    options = extra.get("options")
    return isinstance(options, dict) and options.get(option) is not None


def _num_ctx(extra: dict[str, Any], settings: events.ModelSettings) -> int | None:
    """The length of the context that the caller wants, in Ollama's way, else that of the settings. Raises
    WorkInvalid."""
    if not _named(extra, "num_ctx"):
        return settings.num_ctx
    try:
        return model_settings.context_length("options.num_ctx", extra["options"]["num_ctx"], least=1)
    except model_settings.ModelSettingInvalid as error:
        raise WorkInvalid(str(error)) from None


def size_of(request: events.AttemptRequested) -> CallSize:
    """What is known of a call before it is made; of content that nobody can read, how long it is."""
    options = request.options or _NO_OPTIONS
    contents = [*options.inputs, *(message.content for message in request.messages if not message.parts)]
    tokens = _TEMPLATE_TOKENS
    for message in request.messages:
        for part in message.parts:
            if part.kind in _MEDIA:
                tokens += _MEDIA_TOKENS
            elif part.content is not None:
                contents.append(part.content)
    contents += [tool.parameters for tool in options.tools if tool.parameters is not None]
    tokens += sum(len(content.data) for content in contents) // _BYTES_PER_TOKEN
    most = request.sampling.max_output_tokens
    prefix = prefix_of(_said_in(request)) if request.operation is events.ModelOperation.CHAT else ()
    return CallSize(tokens, most if most is not None and most > 0 else None, prefix)


def _said_in(request: events.AttemptRequested) -> Iterator[bytes]:
    """What a model reads, in about the order in which it does: what comes first must be what stays the same.

    The tenant goes before all: what one tenant asks does not show in how fast another one is answered, as far as it is
    the choice of a node that tells.
    """
    yield request.tenant.encode("utf-8", "replace")
    if request.options is not None:
        for tool in request.options.tools:
            yield tool.name.encode("utf-8", "replace")
            yield from (content.data for content in (tool.description, tool.parameters) if content is not None)
    for message in request.messages:
        yield message.role.encode("utf-8", "replace")
        yield message.content.data
        for part in message.parts:
            yield part.kind.value.encode()
            yield b"" if part.content is None else part.content.data


def _message(message: events.Message) -> ChatMessage:
    role = _ROLES.get(message.role)
    if role is None:
        raise WorkInvalid(f"a message has the unknown role {message.role[:32]!r}")
    name = "" if message.name is None else text_of(message.name)
    if not message.parts:
        # A tool's words without the call that they answer are part of the prompt.
        return ChatMessage("user" if role == "tool" else role, text_of(message.content), name=name)
    return ChatMessage(role, parts=tuple(_part(part) for part in message.parts), name=name)


def _part(part: events.MessagePart) -> Part:
    match part.kind:
        case events.PartKind.TEXT:
            return TextPart(_text(part), part.cache_seconds)
        case events.PartKind.REFUSAL:
            return RefusalPart(_text(part))
        case events.PartKind.REASONING:
            signature = "" if part.signature is None else text_of(part.signature)
            return ReasoningPart(_text(part), part.provider or "", signature, part.content is None)
        case events.PartKind.TOOL_CALL:
            arguments = _text(part) or "{}"
            if not isinstance(_parsed(arguments, "the arguments of a tool call"), dict):
                raise WorkInvalid("the arguments of a tool call are no JSON object")
            return ToolCallPart(part.call_id or "", part.name or "", arguments, part.cache_seconds)
        case events.PartKind.TOOL_RESULT:
            return ToolResultPart(part.call_id or "", _text(part), part.is_error, part.cache_seconds)
        case events.PartKind.IMAGE | events.PartKind.AUDIO | events.PartKind.FILE:
            if part.content is None and part.url is None:
                raise WorkInvalid(f"a part of type {part.kind} has neither content nor url")
            return MediaPart(
                kind=_MEDIA[part.kind],
                media_type=part.media_type or "",
                data=None if part.content is None else bytes_of(part.content),
                url="" if part.url is None else text_of(part.url),
                filename="" if part.filename is None else text_of(part.filename),
                detail=part.detail,
                call_id=part.call_id or "",
                cache_seconds=part.cache_seconds,
            )
        case _:
            raise WorkInvalid("a part of a message is of a kind that this release does not know")


def _text(part: events.MessagePart) -> str:
    return "" if part.content is None else text_of(part.content)


def _tool(tool: events.Tool) -> ToolSpec:
    return ToolSpec(
        tool.name,
        "" if tool.description is None else text_of(tool.description),
        {} if tool.parameters is None else _object(tool.parameters, f"the parameters of tool {tool.name[:64]!r}"),
        tool.strict,
        tool.cache_seconds,
    )


def _tool_choice(choice: events.ToolChoice) -> ToolSelection:
    return ToolSelection(choice.mode.value, tuple(choice.names))


def _schema(form: events.ResponseFormat) -> AnswerSchema | None:
    if form.schema is None:
        return None
    return AnswerSchema(
        _object(form.schema, "the schema of the answer"),
        form.name or "answer",
        "" if form.description is None else text_of(form.description),
        form.strict,
    )


def _object(content: events.Content, what: str) -> dict[str, Any]:
    found = _json(content, what)
    if not isinstance(found, dict):
        raise WorkInvalid(f"{what} is no JSON object")
    return found


def _json(content: events.Content, what: str) -> Any:
    return _parsed(text_of(content), what)


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise WorkInvalid(f"{what} is not JSON") from None
