"""The body of POST /v1/completions, OpenAI's older API for texts that are continued, as chats of one message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from headrace_contracts.cargo import MOST_CHOICES
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import AnswerChoice, Lane, Message, PartKind
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headrace_intake.decide.chat_answers import finish_reason, model_name, provenance
from headrace_intake.decide.choices import answers_of, texts
from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.messages import unsupported, without_neutral
from headrace_intake.decide.model_options import ModelOptions, options_of
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.refusals import bad_request
from headrace_intake.decide.views import TaskView

DEFAULT_KIND: Final = "completion"
MOST_PROMPTS: Final = 32
_MOST_LOGPROBS: Final = 5
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {"suffix": ("",)}


class CompletionStreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: bool | None = None


class CompletionRequest(SubmitOptions):
    """A request as OpenAI's clients write it."""

    model: Name
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], float], Field(max_length=1_024)] | None
    ) = None
    stream_options: CompletionStreamOptions | None = None
    metadata: Labels | None = None

    @property
    def prompts(self) -> list[str]:
        """Each of them is a task."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def taken_completion(document: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported.
    """
    kept = without_neutral(document, CompletionRequest.model_fields.keys(), _NEUTRAL)
    prompt = kept.get("prompt")
    if isinstance(prompt, list) and any(not isinstance(one, str) for one in prompt):
        raise unsupported("prompt", "numbers of tokens mean something to one model only: send text")
    if isinstance(prompt, list) and len(prompt) > MOST_PROMPTS:
        raise bad_request(f"prompt: there are {len(prompt)} prompts, and may be {MOST_PROMPTS}.", "prompt")
    if kept.get("best_of") not in (None, kept.get("n") or 1):
        raise unsupported("best_of", "no more answers are made than n returns")
    if kept.get("echo") and kept.get("logprobs") is not None:
        raise unsupported("logprobs", "a prompt that is echoed has no log probabilities")
    return kept


def drafts_of_completion(request: CompletionRequest) -> list[TaskDraft]:
    """A draft for each prompt. Raises Refusal."""
    role, model = designation(request.model, request.role)
    if not all(request.prompts):
        raise bad_request("prompt: there is nothing in it.", "prompt")
    asked = ModelOptions(
        n=request.n,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        logprobs=None if request.logprobs is None else True,
        top_logprobs=request.logprobs or None,
    )
    same_again = request.temperature == 0 or request.seed is not None
    return [
        TaskDraft(
            options=request,
            messages=(Message(role="user", content=plain(prompt)),),
            role=role,
            model=model,
            kind=request.kind or DEFAULT_KIND,
            lane=request.priority or Lane.INTERACTIVE,
            json=False,
            asked=options_of(asked),
            allow_cached=same_again if request.allow_cached is None else request.allow_cached,
            labels=dict(request.metadata or {}),
        )
        for prompt in request.prompts
    ]


def text_completion(request: CompletionRequest, ends: Sequence[TaskView]) -> dict[str, Any]:
    """The body of a non-streamed answer. Raises ContentSealed."""
    return {
        "id": completion_name(ends[0]),
        "object": "text_completion",
        "created": ends[0].submitted_at // 1000,
        "model": model_name(ends[0]),
        "choices": [
            {
                "index": place * (request.n or 1) + choice.index,
                "text": (prompt if request.echo else "") + said(choice),
                "logprobs": _logprobs(choice),
                "finish_reason": reason(choice),
            }
            for place, (prompt, end) in enumerate(zip(request.prompts, ends, strict=True))
            for choice in answers_of(end)
        ],
        "usage": usage_of(ends),
        "headrace": provenance(ends[0]),
    }


def said(choice: AnswerChoice) -> str:
    """The text of an answer. Raises ContentSealed."""
    return texts(choice.parts, PartKind.TEXT, PartKind.REFUSAL)


def reason(choice: AnswerChoice) -> str:
    """Why an answer ended, in the terms of this API."""
    told = finish_reason(choice.finish_reason)
    return told if told in ("length", "content_filter") else "stop"


def completion_name(view: TaskView) -> str:
    """Completion id in OpenAI's format."""
    return f"cmpl-{view.task_id}"


def usage_of(ends: Sequence[TaskView]) -> dict[str, int]:
    """Tokens of all attempts of all prompts."""
    used = [end.usage for end in ends if end.usage is not None]
    given, made = sum(each.input_tokens for each in used), sum(each.output_tokens for each in used)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def text_chunk(
    view: TaskView, model: str, index: int, text: str, told: str | None = None, *, with_usage: bool = False
) -> dict[str, Any]:
    """A chunk of a stream."""
    chunk: dict[str, Any] = {
        "id": completion_name(view),
        "object": "text_completion",
        "created": view.submitted_at // 1000,
        "model": model,
        "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": told}],
    }
    return {**chunk, "usage": None} if with_usage else chunk


def _logprobs(choice: AnswerChoice) -> dict[str, Any] | None:
    if choice.logprobs is None:
        return None
    found = json.loads(text_of(choice.logprobs)) or []
    tokens = [str(each.get("token", "")) for each in found]
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [each.get("logprob") for each in found],
        "top_logprobs": [
            {str(other.get("token", "")): other.get("logprob") for other in each.get("top_logprobs") or ()}
            for each in found
        ],
        "text_offset": offsets if tokens else [],
    }
