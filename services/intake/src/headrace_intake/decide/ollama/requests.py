"""The bodies of Ollama's API: what is asked, as the draft of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import Lane, Message, Options
from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.embeddings import Dimensions, EmbedFields, embed_draft
from headrace_intake.decide.model_options import ModelOptions, ToolIn, options_of
from headrace_intake.decide.ollama.messages import Images, OllamaMessage, conversation_of, prompt_of
from headrace_intake.decide.ollama.models import FleetModel, requested
from headrace_intake.decide.ollama.options import (
    OWN_FIELDS,
    PROVIDER,
    Think,
    extra_of,
    format_of,
    known_fields,
    own_options,
    sampling_of,
    think_of,
)
from headrace_intake.decide.options import Name

_ONLY_RAW: Final = "prompts are messages here, which each provider puts into its model's own template"
_REFUSED: Final[Mapping[str, str]] = {
    "template": _ONLY_RAW,
    "raw": _ONLY_RAW,
    "suffix": "no model is asked to fill in the middle of a text",
    "context": "it holds one model's tokens: send the conversation to /api/chat",
    "width": "no pictures are made here",
    "height": "no pictures are made here",
    "steps": "no pictures are made here",
}


class _Body(BaseModel):
    # Headrace's own fields are read apart (`own_options`); others have been refused before.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())

    model: Name
    options: dict[str, Any] = {}


class _Writing(_Body):
    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class OllamaTool(ToolIn):
    """A tool, whose type may be left out."""

    type: Literal["function"] = "function"


class OllamaChatRequest(_Writing):
    """The body of POST /api/chat."""

    messages: list[OllamaMessage] = []
    tools: Annotated[list[OllamaTool], Field(max_length=128)] = []


class OllamaGenerateRequest(_Writing):
    """The body of POST /api/generate."""

    prompt: str = ""
    system: str | None = None
    images: Images | None = None


class OllamaEmbedRequest(_Body):
    """The body of POST /api/embed."""

    input: str | list[str] = ""
    dimensions: Dimensions | None = None


class OllamaEmbeddingsRequest(_Body):
    """The body of POST /api/embeddings, the older form for one text."""

    prompt: str = ""


class OllamaShowRequest(BaseModel):
    """The body of POST /api/show."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model: Name | None = None
    name: Name | None = None


def taken_ollama(document: Mapping[str, Any], model: type[_Body]) -> dict[str, Any]:
    """The body without what asks for nothing. Raises Refusal for what cannot be honoured."""
    return known_fields(document, frozenset(model.model_fields), _REFUSED)


def draft_of_ollama_chat(
    request: OllamaChatRequest, document: Mapping[str, Any], models: Mapping[str, FleetModel]
) -> TaskDraft:
    """The draft of a chat. Raises Refusal, and ValidationError for wrong options."""
    return _draft(request, document, models, conversation_of(request.messages), "chat", request.tools)


def draft_of_generate(
    request: OllamaGenerateRequest, document: Mapping[str, Any], models: Mapping[str, FleetModel]
) -> TaskDraft:
    """The draft of a completion. Raises Refusal, and ValidationError for wrong options."""
    messages = prompt_of(request.prompt, request.images, request.system)
    return _draft(request, document, models, messages, "completion", [])


def draft_of_ollama_embed(
    request: OllamaEmbedRequest | OllamaEmbeddingsRequest,
    document: Mapping[str, Any],
    models: Mapping[str, FleetModel],
) -> TaskDraft:
    """The draft of a request for vectors. Raises Refusal, and ValidationError for wrong options."""
    # There is nothing to sample; that the options exist and have fitting values is checked all the same.
    sampling_of(request.options, by_ollama=True)
    if isinstance(request, OllamaEmbeddingsRequest):
        texts: str | list[str] = request.prompt
        dimensions = None
    else:
        texts, dimensions = request.input, request.dimensions
    fields = EmbedFields(
        **{name: document[name] for name in OWN_FIELDS & document.keys()},
        model=requested(request.model, models),
        input=texts,
        dimensions=dimensions,
    )
    return embed_draft(fields, fields.priority or Lane.INTERACTIVE)


def asks_nothing(request: OllamaChatRequest | OllamaGenerateRequest) -> bool:
    """Whether a request only has its model loaded, in Ollama's way: there is nothing to answer."""
    if isinstance(request, OllamaChatRequest):
        return not request.messages
    return not request.prompt and not request.images


def _draft(
    request: _Writing,
    document: Mapping[str, Any],
    models: Mapping[str, FleetModel],
    messages: tuple[Message, ...],
    kind: str,
    tools: list[OllamaTool],
) -> TaskDraft:
    name = requested(request.model, models)
    by_ollama = name.startswith(f"{PROVIDER}/") or document.get("preferred_provider") == PROVIDER
    sampling = sampling_of(request.options, by_ollama=by_ollama)
    options = own_options(document, sampling, stream=request.stream)
    role, model = designation(name, options.role)
    as_json, form = format_of(request.format)
    thinking = think_of(request.think)
    asked = ModelOptions(
        tools=list(tools) or None,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        reasoning_effort=thinking.get("reasoning_effort"),
        **sampling.asked,
    )
    carried = replace(
        options_of(asked) or Options(),
        response_format=form,
        reasoning_tokens=thinking.get("reasoning_tokens"),
        extra=extra_of(sampling.extra),
    )
    shared = options.temperature == 0 or options.seed is not None
    return TaskDraft(
        options=options,
        messages=messages,
        role=role,
        model=model,
        kind=options.kind or kind,
        lane=options.priority or Lane.INTERACTIVE,
        json=as_json,
        asked=None if carried == Options() else carried,
        allow_cached=shared if options.allow_cached is None else options.allow_cached,
    )
