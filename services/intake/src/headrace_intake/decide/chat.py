"""The body of POST /v1/chat/completions: which parameters are supported, and the refusals of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import Lane
from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.drafts import TaskDraft, conversation, designation
from headrace_intake.decide.messages import MessageIn, taken_messages, unsupported, without_neutral
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.refusals import bad_request

DEFAULT_KIND: Final = "chat"

_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""OpenAI parameters that are not supported, with the values that request nothing beyond the default behaviour."""


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "json_object"]


class ChatCompletionRequest(SubmitOptions):
    """A chat completion request as OpenAI's clients write it, after `taken` has removed the no-op parameters."""

    model: Name
    messages: Annotated[list[MessageIn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    metadata: Labels | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def taken(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported.
    """
    kept = without_neutral(document, ChatCompletionRequest.model_fields.keys(), _HAPPENS_ANYWAY)
    if "messages" in kept:
        kept["messages"] = taken_messages(kept["messages"])
    response_format = kept.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        raise unsupported("response_format", "json_schema is not supported here; json_object is")
    return kept


def draft_of_chat(request: ChatCompletionRequest) -> TaskDraft:
    """The draft of the request. A caller waits for it, so its lane is interactive by default. Raises Refusal."""
    role, model = designation(request.model, request.role)
    options = request
    if request.max_completion_tokens is not None:
        if request.max_tokens not in (None, request.max_completion_tokens):
            raise bad_request("max_tokens and max_completion_tokens differ: give one.", "max_tokens")
        options = request.model_copy(update={"max_tokens": request.max_completion_tokens})
    return TaskDraft(
        options=options,
        messages=conversation(request.messages),
        role=role,
        model=model,
        kind=request.kind or DEFAULT_KIND,
        lane=request.priority or Lane.INTERACTIVE,
        json=request.response_format is not None and request.response_format.type == "json_object",
        labels=dict(request.metadata or {}),
    )
