"""What a caller may ask of a model beyond messages and sampling, in OpenAI's terms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from headrace_contracts import events
from headrace_contracts.cargo import MOST_CHOICES, MOST_TOOLS, MOST_TOP_K, MOST_TOP_LOGPROBS
from headrace_contracts.content import plain
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headrace_intake.decide.json_schemas import SchemaUnusable, check_schema
from headrace_intake.decide.messages import ToolName
from headrace_intake.decide.provider_options import ProviderOptions, extra_of
from headrace_intake.decide.refusals import bad_request

_Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9_\-]+$")]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_PLAIN: Final = events.Options()


class _StrictOption(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class FunctionIn(_StrictOption):
    """A function that the model may call. `parameters` is a JSON Schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(_StrictOption):
    """A tool of OpenAI's type `function`; its other types run at OpenAI, and nowhere else."""

    type: Literal["function"]
    function: FunctionIn

    def event(self, place: int) -> events.Tool:
        said = self.function
        if said.parameters is not None:
            expect_schema(said.parameters, f"tools.{place}.function.parameters")
        return events.Tool(
            name=said.name,
            description=plain(said.description) if said.description else None,
            parameters=plain(json.dumps(said.parameters, ensure_ascii=False)) if said.parameters else None,
            strict=said.strict,
        )


class NamedFunction(_StrictOption):
    """The name of a function."""

    name: ToolName


class NamedTool(_StrictOption):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(_StrictOption):
    """The tools that may, or must, be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS)]


class AllowedToolsChoice(_StrictOption):
    """OpenAI's `allowed_tools`."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchemaIn(_StrictOption):
    """The schema of an answer."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(_StrictOption):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(_StrictOption):
    """One JSON value."""

    type: Literal["json_object"]


class JsonSchemaFormat(_StrictOption):
    """One JSON value that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaIn


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
ToolChoiceIn = (
    Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]
)


class ModelOptions(BaseModel):
    """Fields of both bodies, beside those of `SubmitOptions`."""

    tools: Annotated[list[ToolIn], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoiceIn | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    top_k: Annotated[int, Field(ge=1, le=MOST_TOP_K)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    logit_bias: (
        Annotated[dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], float], Field(max_length=1_024)] | None
    ) = None
    reasoning_effort: _Word | None = None
    verbosity: _Word | None = None
    service_tier: _Word | None = None
    provider_options: ProviderOptions | None = None


def wants_json(asked: ModelOptions) -> bool:
    """Whether the answer must be JSON of some form."""
    return asked.response_format is not None and asked.response_format.type != "text"


def options_of(
    asked: ModelOptions, *, model: str | None = None, preferred_provider: str | None = None
) -> events.Options | None:
    """The event's options; None if nothing is asked. Raises Refusal.

    Args:
        model, preferred_provider: Which name the provider that gets `provider_options`.
    """
    tools = tuple(tool.event(place) for place, tool in enumerate(asked.tools or ()))
    found = events.Options(
        tools=tools,
        tool_choice=_tool_choice(asked.tool_choice, [tool.name for tool in tools]),
        parallel_tool_calls=asked.parallel_tool_calls if tools else None,
        response_format=_response_format(asked.response_format),
        choices=asked.n or 1,
        presence_penalty=asked.presence_penalty or None,
        frequency_penalty=asked.frequency_penalty or None,
        top_k=asked.top_k,
        top_logprobs=_top_logprobs(asked),
        logit_bias=asked.logit_bias or {},
        reasoning_effort=asked.reasoning_effort,
        verbosity=asked.verbosity,
        service_tier=asked.service_tier if asked.service_tier not in ("auto", "default") else None,
        extra=extra_of(asked.provider_options, model=model, preferred_provider=preferred_provider),
    )
    return None if found == _PLAIN else found


def _tool_choice(choice: ToolChoiceIn | None, names: Sequence[str]) -> events.ToolChoice | None:
    if len(set(names)) != len(names):
        raise bad_request("tools: two tools have the same name.", "tools")
    if choice is None:
        return None
    mode, wanted = events.ToolChoiceMode.REQUIRED, list[str]()
    match choice:
        case str():
            mode = events.ToolChoiceMode(choice)
        case NamedTool():
            wanted = [choice.function.name]
        case AllowedToolsChoice():
            mode = events.ToolChoiceMode(choice.allowed_tools.mode)
            wanted = [tool.function.name for tool in choice.allowed_tools.tools]
    if unknown := [name for name in wanted if name not in names]:
        raise bad_request(f"tool_choice: there is no tool {unknown[0]!r} among the tools.", "tool_choice")
    if not names:
        if mode is events.ToolChoiceMode.REQUIRED:
            raise bad_request("tool_choice: a tool is required, and there are none.", "tool_choice")
        return None
    return events.ToolChoice(mode=mode, names=tuple(dict.fromkeys(wanted)))


def _response_format(form: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> events.ResponseFormat | None:
    if not isinstance(form, JsonSchemaFormat):
        # Text is what happens anyway; one JSON value is a parameter of the sampling.
        return None
    described = form.json_schema
    schema = described.schema_ if described.schema_ is not None else {}
    expect_schema(schema, "response_format.json_schema.schema")
    return events.ResponseFormat(
        kind=events.ResponseFormatKind.JSON_SCHEMA,
        name=described.name,
        description=plain(described.description) if described.description else None,
        schema=plain(json.dumps(schema, ensure_ascii=False)),
        strict=bool(described.strict),
    )


def expect_schema(schema: dict[str, Any], where: str) -> None:
    """Raises Refusal unless it is a JSON Schema that answers can be checked against."""
    try:
        check_schema(schema)
    except SchemaUnusable as error:
        raise bad_request(f"{where}: {error}.", where) from None


def _top_logprobs(asked: ModelOptions) -> int | None:
    if asked.top_logprobs and not asked.logprobs:
        raise bad_request("top_logprobs: it needs logprobs.", "top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None
