"""The body of POST /v1/messages: which parameters are supported, and the refusals of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from headrace_contracts import events
from headrace_contracts.cargo import MOST_TOOLS, MOST_TOP_K, says_something
from headrace_contracts.content import plain
from headrace_contracts.events import Lane, Message, MessagePart, PartKind
from headrace_contracts.ids import digest
from headrace_contracts.limits import LONGEST_NAME, MOST_STOPS, OPTIONAL_NAME_PATTERN
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from headrace_intake.decide.anthropic.blocks import (
    BlockMessage,
    TextBlock,
    message_of,
    taken_messages,
    taken_text_blocks,
)
from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.messages import CacheControl, ToolName, unsupported, without_neutral
from headrace_intake.decide.model_options import expect_schema
from headrace_intake.decide.options import Labels, Name, StopText, SubmitOptions
from headrace_intake.decide.provider_options import ProviderOptions, extra_of
from headrace_intake.decide.refusals import bad_request

DEFAULT_KIND: Final = "chat"
_PLAIN: Final = events.Options()
_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {"speed": ("standard",), "mcp_servers": ([],), "betas": ([],)}
"""Anthropic's parameters that are not supported, with the values that request nothing beyond the default behaviour."""
HARMLESS: Final = frozenset({"context_management", "diagnostics"})
"""Parameters that concern how Anthropic keeps a long conversation short or explains its cache: taken, and not passed
on. A conversation that is too long is an error, as ever."""
_HARMLESS_IN_TOOLS: Final = frozenset({"eager_input_streaming"})
_ADAPTIVE_EFFORT: Final = "high"
"""Anthropic's default."""


class _StrictParameter(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metadata(_StrictParameter):
    """Who the end user is."""

    user_id: Annotated[str, StringConstraints(max_length=1_000, pattern=OPTIONAL_NAME_PATTERN)] | None = None


class CustomTool(_StrictParameter):
    """A tool that the caller runs. `input_schema` is a JSON Schema."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None
    input_examples: list[dict[str, Any]] | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None

    def event(self, place: int) -> events.Tool:
        expect_schema(self.input_schema, f"tools.{place}.input_schema")
        examples = "".join(f"\nExample: {json.dumps(one, ensure_ascii=False)}" for one in self.input_examples or ())
        described = (self.description or "") + examples
        return events.Tool(
            name=self.name,
            description=plain(described) if described else None,
            parameters=plain(json.dumps(self.input_schema, ensure_ascii=False)),
            strict=self.strict,
            cache_seconds=None if self.cache_control is None else self.cache_control.seconds,
        )


class AnyChoice(_StrictParameter):
    """Whether tools are called: as the model likes, at least one, or none."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedToolChoice(_StrictParameter):
    """The tool that must be called."""

    type: Literal["tool"]
    name: ToolName
    disable_parallel_tool_use: bool | None = None


class Thinking(_StrictParameter):
    """Whether to think first."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1_024, le=10_000_000)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(_StrictParameter):
    """A schema that the answer must fit."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(_StrictParameter):
    """How much effort to take, and the form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


def _shape(system: object) -> str:
    return "blocks" if isinstance(system, list) else "text"


class MessagesRequest(SubmitOptions):
    """A request as Anthropic's clients write it, after `taken` has removed what has no effect."""

    model: Name
    messages: Annotated[list[BlockMessage], Field(min_length=1)]
    system: (
        Annotated[Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], Discriminator(_shape)] | None
    ) = None
    tools: Annotated[list[CustomTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Annotated[AnyChoice | NamedToolChoice, Field(discriminator="type")] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    top_k: Annotated[int, Field(ge=1, le=MOST_TOP_K)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: CacheControl | None = None
    provider_options: ProviderOptions | None = None
    labels: Labels | None = None

    @property
    def shows_thoughts(self) -> bool:
        """Whether the answer tells what the model thought, and not only its signature."""
        return self.thinking is None or self.thinking.display != "omitted"


def taken(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported.
    """
    said = {name: value for name, value in document.items() if name not in HARMLESS}
    kept = without_neutral(said, MessagesRequest.model_fields.keys(), _HAPPENS_ANYWAY)
    if "messages" in kept:
        kept["messages"] = taken_messages(kept["messages"])
    if "system" in kept:
        kept["system"] = taken_text_blocks(kept["system"], "system")
    if isinstance(kept.get("tools"), list):
        kept["tools"] = [_taken_tool(tool, place) for place, tool in enumerate(kept["tools"])]
    return kept


def _taken_tool(tool: Any, place: int) -> Any:
    if not isinstance(tool, dict):
        return tool
    if tool.get("type") not in (None, "custom"):
        why = "this tool belongs to Anthropic, and is not here: give tools with an input_schema, and run them yourself"
        raise unsupported(f"tools.{place}.type", why)
    return {name: value for name, value in tool.items() if value is not None and name not in _HARMLESS_IN_TOOLS}


def draft_of_messages(request: MessagesRequest) -> TaskDraft:
    """The draft of the request. A caller waits for it, so its lane is interactive by default. Raises Refusal."""
    if request.max_tokens is None:
        raise bad_request("max_tokens: Field required", "max_tokens")
    if request.stop is not None and request.stop_sequences is not None:
        raise bad_request("stop_sequences and stop are the same: give one.", "stop_sequences")
    role, model = designation(request.model, request.role)
    stop = request.stop if request.stop_sequences is None else request.stop_sequences
    options = request.model_copy(update={"stop": stop or None, "user": request.user or _user(request.metadata)})
    allow_cached = request.allow_cached
    if allow_cached is None:
        # As for chat completions: programs ask the same again to get another answer.
        allow_cached = request.temperature == 0 or request.seed is not None
    return TaskDraft(
        options=options,
        messages=conversation(request),
        role=role,
        model=model,
        kind=request.kind or DEFAULT_KIND,
        lane=request.priority or Lane.INTERACTIVE,
        json=_format(request) is not None,
        asked=options_of(request, model),
        allow_cached=allow_cached,
        labels=dict(request.labels or {}),
    )


def _user(metadata: Metadata | None) -> str | None:
    user = None if metadata is None else metadata.user_id
    # Some clients put a whole document into it; which user it is remains the same.
    return user if user is None or len(user) <= LONGEST_NAME else digest([user])


def conversation(request: MessagesRequest) -> tuple[Message, ...]:
    """The system prompt and the messages as the event holds them. Raises Refusal if they contain nothing."""
    said = [event for message in request.messages for event in message.events()]
    if not any(says_something(message) for message in said):
        raise bad_request("There is nothing in the messages.", "messages")
    if request.cache_control is not None:
        said[-1] = _marked(said[-1], request.cache_control.seconds)
    if request.system:
        system = request.system
        parts = [MessagePart(kind=PartKind.TEXT, content=plain(system))] if isinstance(system, str) else [
            part for block in system for part in block.parts()
        ]  # fmt: skip
        said.insert(0, message_of("system", parts))
    return tuple(said)


def _marked(message: Message, seconds: int) -> Message:
    parts = message.parts or (MessagePart(kind=PartKind.TEXT, content=message.content),)
    return replace(message, content=plain(""), parts=(*parts[:-1], replace(parts[-1], cache_seconds=seconds)))


def options_of(request: MessagesRequest, model: str | None) -> events.Options | None:
    """The event's options; None if nothing is asked. Raises Refusal."""
    tools = tuple(tool.event(place) for place, tool in enumerate(request.tools or ()))
    choice = request.tool_choice
    alone = choice is not None and choice.disable_parallel_tool_use is True
    effort, budget = _thinking(request)
    found = events.Options(
        tools=tools,
        tool_choice=_tool_choice(choice, [tool.name for tool in tools]),
        parallel_tool_calls=False if alone and tools else None,
        response_format=_format(request),
        top_k=request.top_k,
        reasoning_effort=effort,
        reasoning_tokens=budget,
        service_tier=None if request.service_tier == "auto" else request.service_tier,
        extra=extra_of(request.provider_options, model=model, preferred_provider=request.preferred_provider),
    )
    return None if found == _PLAIN else found


def _thinking(request: MessagesRequest) -> tuple[str | None, int | None]:
    """Effort, and the most tokens to think with."""
    effort = None if request.output_config is None else request.output_config.effort
    thinking = request.thinking
    if thinking is None:
        return effort, None
    if thinking.type != "enabled" and thinking.budget_tokens is not None:
        raise bad_request("thinking.budget_tokens: it goes with type enabled.", "thinking.budget_tokens")
    match thinking.type:
        case "disabled":
            return None, 0
        case "adaptive":
            return effort or _ADAPTIVE_EFFORT, None
        case "enabled":
            budget = thinking.budget_tokens
            if budget is None:
                raise bad_request("thinking.budget_tokens: Field required", "thinking.budget_tokens")
            if request.max_tokens is not None and budget >= request.max_tokens:
                raise bad_request("thinking.budget_tokens: must be less than max_tokens.", "thinking.budget_tokens")
            return effort, budget


def _tool_choice(choice: AnyChoice | NamedToolChoice | None, names: list[str]) -> events.ToolChoice | None:
    if len(set(names)) != len(names):
        raise bad_request("tools: two tools have the same name.", "tools")
    if choice is None:
        return None
    wanted: tuple[str, ...] = ()
    if isinstance(choice, NamedToolChoice):
        if choice.name not in names:
            raise bad_request(f"tool_choice: there is no tool {choice.name!r} among the tools.", "tool_choice")
        mode, wanted = events.ToolChoiceMode.REQUIRED, (choice.name,)
    else:
        mode = events.ToolChoiceMode("required" if choice.type == "any" else choice.type)
    if not names:
        if mode is events.ToolChoiceMode.REQUIRED:
            raise bad_request("tool_choice: a tool is required, and there are none.", "tool_choice")
        return None
    return events.ToolChoice(mode=mode, names=wanted)


def _format(request: MessagesRequest) -> events.ResponseFormat | None:
    within = None if request.output_config is None else request.output_config.format
    asked, where = (within, "output_config.format") if within is not None else (request.output_format, "output_format")
    if asked is None:
        return None
    expect_schema(asked.schema_, f"{where}.schema")
    return events.ResponseFormat(
        kind=events.ResponseFormatKind.JSON_SCHEMA,
        name="answer",
        schema=plain(json.dumps(asked.schema_, ensure_ascii=False)),
        strict=True,
    )
