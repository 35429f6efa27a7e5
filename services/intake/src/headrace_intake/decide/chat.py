"""The body of POST /v1/chat/completions: which parameters are supported, and the refusals of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import Lane
from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.drafts import TaskDraft, conversation, designation
from headrace_intake.decide.messages import MessageIn, taken_messages, without_neutral
from headrace_intake.decide.model_options import ModelOptions, options_of, wants_json
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.refusals import bad_request

DEFAULT_KIND: Final = "chat"

_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
"""OpenAI parameters that are not supported, with the values that request nothing beyond the default behaviour."""
HARMLESS: Final = frozenset({
    "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction",
})  # fmt: skip
"""Parameters that change nothing about the answer, and concern what OpenAI keeps or how fast it is: taken, and not
passed on. Tasks are stored in any case."""


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ChatCompletionRequest(SubmitOptions, ModelOptions):
    """A chat completion request as OpenAI's clients write it, after `taken` has removed the no-op parameters."""

    model: Name
    messages: Annotated[list[MessageIn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    stream_options: StreamOptions | None = None
    metadata: Labels | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def taken(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported.
    """
    said = {name: value for name, value in document.items() if name not in HARMLESS}
    kept = without_neutral(said, ChatCompletionRequest.model_fields.keys(), _HAPPENS_ANYWAY)
    if "messages" in kept:
        kept["messages"] = taken_messages(kept["messages"])
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
        json=wants_json(request),
        asked=options_of(request, model=model, preferred_provider=request.preferred_provider),
        allow_cached=_expects_the_same_again(request) if request.allow_cached is None else request.allow_cached,
        labels=dict(request.metadata or {}),
    )


def _expects_the_same_again(request: ChatCompletionRequest) -> bool:
    """Whether the caller means to get the same answer for the same question: programs written for OpenAI's API ask the
    same again to get another answer."""
    return request.temperature == 0 or request.seed is not None
