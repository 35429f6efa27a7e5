"""The body of POST /v1/responses: which parameters are supported, and the refusals of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from headrace_contracts.cargo import MOST_TOOLS, MOST_TOP_LOGPROBS, content_bytes, says_something
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Lane, Message, Options, Privacy, Turn
from headrace_contracts.limits import LONGEST_NAME, MOST_MESSAGES, NAME_PATTERN
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.messages import ToolName, unsupported
from headrace_intake.decide.model_options import ModelOptions, options_of, wants_json
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.refusals import Refusal, bad_request
from headrace_intake.decide.responses.calls import check_calls
from headrace_intake.decide.responses.items import InputItem, SpokenParts, messages_of

DEFAULT_KIND: Final = "response"

_Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9_\-]+$")]
_Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
_TOLD: Final = ("prompt_cache_key", "safety_identifier", "max_tool_calls", "truncation")
"""Settings that change nothing about the answer here, and are told with it. `max_tool_calls` counts the calls of tools
that OpenAI runs; `truncation` allows to shorten a conversation, which is refused instead."""
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "prompt_cache_retention": ("in_memory", "24h"),
    "stream_options": ({}, {"include_obfuscation": False}, {"include_obfuscation": True}),
    "context_management": ([],),
}
"""Parameters that are not supported, with the values that request nothing which could be missed."""
UNREAD: Final = frozenset({"prompt_cache_options"})
"""How OpenAI keeps prompts: taken, and not read."""
_INCLUDED: Final = frozenset({
    "reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url",
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
})  # fmt: skip
_LOGPROBS: Final = "message.output_text.logprobs"


class _StrictField(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class FunctionToolIn(_StrictField):
    """A function that the model may call. `parameters` is a JSON Schema."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunctionChoice(_StrictField):
    """The function that must be called."""

    type: Literal["function"]
    name: ToolName


class AllowedFunctionsChoice(_StrictField):
    """The functions that may, or must, be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunctionChoice], Field(min_length=1, max_length=MOST_TOOLS)]


class SchemaFormat(_StrictField):
    """One JSON value that fits a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class PlainFormat(_StrictField):
    """Any text, or one JSON value."""

    type: Literal["text", "json_object"]


class TextSettings(_StrictField):
    """Form and length of the answer."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: _Word | None = None


class ReasoningSettings(_StrictField):
    """How much to think first. Thoughts are told whenever there are any."""

    effort: _Word | None = None
    summary: _Word | None = None
    generate_summary: _Word | None = None
    context: _Word | None = None
    mode: Literal["standard"] | None = None


class ConversationIn(_StrictField):
    """The conversation that the request continues."""

    id: _Identifier


_ITEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "A message, a function call, its output, reasoning, or a reference to an earlier item.",
}


class ResponseRequest(SubmitOptions):
    """A request as OpenAI's clients write it, after `taken_response` has removed what has no effect."""

    model: Name = "auto"
    input: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM}]})] = None
    instructions: str | None = None
    tools: Annotated[list[FunctionToolIn], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionChoice | AllowedFunctionsChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    include: Annotated[list[str], Field(max_length=32)] | None = None
    metadata: Labels | None = None
    store: bool = True
    background: bool = False
    previous_response_id: _Identifier | None = None
    conversation: _Identifier | ConversationIn | None = None
    service_tier: _Word | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        """Id of the conversation, in whichever form it was given."""
        return self.conversation.id if isinstance(self.conversation, ConversationIn) else self.conversation


@dataclass(frozen=True, slots=True)
class Earlier:
    """What was said before, in the conversation that a request continues.

    Attributes:
        messages: In order, without instructions.
        previous_task_id: The last turn, if it was named.
        privacy: The highest level that any of its turns had.
        session: Session of the last turn.
    """

    messages: tuple[Message, ...] = ()
    previous_task_id: str | None = None
    privacy: Privacy | None = None
    session: str | None = None


NOTHING_EARLIER: Final = Earlier()


def taken_response(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported.
    """
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if value is None or any(type(value) is type(same) and value == same for same in _NEUTRAL.get(name, ())):
            continue
        if name in UNREAD:
            continue
        if name not in ResponseRequest.model_fields:
            raise unsupported(name, "this parameter is not supported here")
        kept[name] = value
    if isinstance(tools := kept.get("tools"), list):
        kept["tools"] = [_taken_tool(tool, f"tools.{place}") for place, tool in enumerate(tools)]
    choice = kept.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") not in ("function", "allowed_tools"):
        raise unsupported("tool_choice.type", "only functions of the caller can be called, not the tools of OpenAI")
    for name in kept["include"] if isinstance(kept.get("include"), list) else ():
        if isinstance(name, str) and name not in _INCLUDED:
            raise unsupported("include", f"there is nothing called {name[:64]!r} to include")
    return kept


def _taken_tool(tool: Any, where: str) -> Any:
    if not isinstance(tool, dict):
        return tool
    kind = tool.get("type")
    if kind != "function":
        raise unsupported(
            f"{where}.type",
            f"the tool {str(kind)[:64]!r} runs at OpenAI only: give a function (type function), and run it yourself",
        )
    kept = {name: value for name, value in tool.items() if value is not None}
    if kept.get("allowed_callers") == ["direct"]:
        del kept["allowed_callers"]
    for name in ("defer_loading", "async"):
        if kept.get(name) is False:
            del kept[name]
    kept.pop("output_schema", None)  # describes to OpenAI's own programs what a function returns
    return kept


def draft_of_response(
    request: ResponseRequest,
    items: Sequence[InputItem],
    referred: Mapping[str, SpokenParts],
    earlier: Earlier,
    most_bytes: int,
    *,
    repeated: bool = False,
) -> TaskDraft:
    """The draft of the request.

    Args:
        items: Its own items.
        referred: What its references stand for.
        earlier: What was said before.
        most_bytes: Most bytes of a conversation.
        repeated: Whether it only follows the task of the same request, and nothing is submitted.

    Raises Refusal.
    """
    role, model = designation(request.model, request.role)
    own = messages_in(items, referred)
    if not any(says_something(message) for message in own) and not request.instructions:
        raise bad_request("There is nothing in the input.", "input")
    instructions = () if not request.instructions else (Message(role="system", content=plain(request.instructions)),)
    messages = (*instructions, *earlier.messages, *own)
    _expect_bounded(messages, most_bytes)
    if not repeated:
        check_calls(messages)
    asked = _asked(request)
    return TaskDraft(
        options=_settled(request, earlier),
        messages=messages,
        role=role,
        model=model,
        kind=request.kind or DEFAULT_KIND,
        lane=request.priority or Lane.INTERACTIVE,
        json=wants_json(asked),
        asked=_options(asked),
        allow_cached=_expects_the_same_again(request) if request.allow_cached is None else request.allow_cached,
        labels=dict(request.metadata or {}),
        turn=Turn(
            previous_task_id=earlier.previous_task_id,
            conversation=request.conversation_id,
            instructions=bool(instructions),
            earlier_messages=len(earlier.messages),
            store=request.store,
            background=request.background,
            settings=_settings(request),
        ),
    )


def expect_coherent(request: ResponseRequest) -> None:
    """Raises Refusal for parameters that exclude each other."""
    if request.previous_response_id is not None and request.conversation is not None:
        raise bad_request("Give either previous_response_id or conversation.", "previous_response_id")
    if request.background and not request.store:
        raise bad_request("background: a response that is not stored cannot be asked for later.", "background")
    if request.conversation is not None and request.session not in (None, request.conversation_id):
        raise bad_request("The session of a conversation is the conversation.", "session", "contradiction")
    if request.max_tokens not in (None, request.max_output_tokens) and request.max_output_tokens is not None:
        raise bad_request("max_tokens and max_output_tokens differ: give one.", "max_tokens")


def messages_in(items: Sequence[InputItem], referred: Mapping[str, SpokenParts]) -> tuple[Message, ...]:
    """What the items of a body say. Raises Refusal."""
    try:
        return messages_of(items, referred)
    except Refusal as refusal:
        if refusal.param != "messages":
            raise
        # What is wrong with a file is said in the words of the API that has messages.
        raise bad_request(refusal.detail.replace("messages:", "input:"), "input", refusal.kind) from None


def _expect_bounded(messages: Sequence[Message], most_bytes: int) -> None:
    size = sum(len(content_bytes(message)) for message in messages)
    if len(messages) > MOST_MESSAGES or size > most_bytes:
        raise bad_request(
            f"The conversation has {len(messages)} messages of {size} bytes with its earlier turns, and may have "
            f"{MOST_MESSAGES} of {most_bytes}: begin a new one.",
            "input",
            "context_length_exceeded",
        )


def _settled(request: ResponseRequest, earlier: Earlier) -> SubmitOptions:
    """The options, with what follows from the conversation: its order, and that its privacy is never lowered."""
    changes: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        changes["max_tokens"] = request.max_output_tokens
    if request.session is None:
        changes["session"] = request.conversation_id or earlier.session
    if earlier.privacy is not None:
        if request.privacy is not None and _STRICTNESS[request.privacy] < _STRICTNESS[earlier.privacy]:
            why = f"An earlier turn of this conversation was {earlier.privacy}: it cannot become {request.privacy}."
            raise Refusal(403, "below-floor", why, "privacy")
        changes["privacy"] = request.privacy or earlier.privacy
    return request.model_copy(update=changes)


_STRICTNESS: Final[Mapping[Privacy, int]] = {Privacy.PUBLIC: 0, Privacy.INTERNAL: 1, Privacy.SENSITIVE: 2}


def stricter(one: Privacy | None, other: Privacy | None) -> Privacy | None:
    """The higher of two levels."""
    levels = [level for level in (one, other) if level is not None]
    return max(levels, key=_STRICTNESS.__getitem__) if levels else None


def _expects_the_same_again(request: ResponseRequest) -> bool:
    return request.temperature == 0 or request.seed is not None


def _asked(request: ResponseRequest) -> ModelOptions:
    """What is asked of the model, in the terms of the chat API, which the options of a task follow."""
    text, thinking = request.text or TextSettings(), request.reasoning or ReasoningSettings()
    with_logprobs = _LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    return ModelOptions.model_validate({
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name, "description": tool.description, "parameters": tool.parameters,
                    "strict": tool.strict,
                },
            }
            for tool in request.tools or ()
        ],
        "tool_choice": _tool_choice(request),
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": _response_format(text),
        "logprobs": with_logprobs or None,
        "top_logprobs": request.top_logprobs or None,
        "reasoning_effort": thinking.effort,
        "verbosity": text.verbosity,
        "service_tier": request.service_tier,
    })  # fmt: skip


def _tool_choice(request: ResponseRequest) -> Any:
    match request.tool_choice:
        case NamedFunctionChoice(name=name):
            return {"type": "function", "function": {"name": name}}
        case AllowedFunctionsChoice(mode=mode, tools=tools):
            named = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
        case choice:
            return choice


def _response_format(text: TextSettings) -> Any:
    match text.format:
        case SchemaFormat() as form:
            described = {"name": form.name, "description": form.description, "strict": form.strict}
            return {"type": "json_schema", "json_schema": {**described, "schema": form.schema_}}
        case PlainFormat(type=kind):
            return {"type": kind}
        case _:
            return None


def _options(asked: ModelOptions) -> Options | None:
    try:
        return options_of(asked)
    except Refusal as refusal:
        # The same fields lie elsewhere in this API.
        where = (refusal.param or "").replace(".function.", ".").replace("response_format.json_schema.", "text.format.")
        detail = refusal.detail.replace(refusal.param or "", where) if refusal.param else refusal.detail
        raise bad_request(detail, where, refusal.kind) from None


def _settings(request: ResponseRequest) -> Content | None:
    told: dict[str, Any] = {name: value for name in _TOLD if (value := getattr(request, name)) not in (None, "")}
    if request.reasoning is not None and (summary := request.reasoning.summary or request.reasoning.generate_summary):
        told["summary"] = summary
    if request.service_tier is not None:
        told["service_tier"] = request.service_tier
    return plain(json.dumps(told, ensure_ascii=False)) if told else None
