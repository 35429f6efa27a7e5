"""What the lines of a batch may ask for: for each endpoint, how a body becomes a task, and an end a body."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.events import Lane
from headrace_contracts.limits import MOST_REQUEST_BYTES
from pydantic import BaseModel

from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.chat_answers import completion, model_name, provenance, usage
from headrace_intake.decide.completions import (
    CompletionRequest,
    drafts_of_completion,
    taken_completion,
    text_completion,
)
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.embeddings import EmbeddingsRequest, draft_of_embeddings, taken_embedding
from headrace_intake.decide.refusals import bad_request
from headrace_intake.decide.responses.items import Parse, input_items, references
from headrace_intake.decide.responses.output import response
from headrace_intake.decide.responses.request import (
    NOTHING_EARLIER,
    ResponseRequest,
    draft_of_response,
    expect_coherent,
    taken_response,
)
from headrace_intake.decide.responses.turns import turn_of_draft
from headrace_intake.decide.vectors import in_numbers
from headrace_intake.decide.views import TaskView


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """One endpoint.

    Attributes:
        taken: The body without what has no effect. Raises Refusal.
        request: What the body is validated as after that.
        draft: The draft of a task from a `request`. Raises Refusal, and what its second argument raises, which
            validates items of the body (see `responses.items.input_items`).
        answer: The body of the answer of a task that succeeded, with the task's draft if it is `told_again`. Raises
            ContentSealed.
        told_again: Whether the answer repeats what was asked, so that the line has to be read again.
    """

    taken: Callable[[Mapping[str, Any]], dict[str, Any]]
    request: type[BaseModel]
    draft: Callable[[Any, Parse], TaskDraft]
    answer: Callable[[TaskView, TaskDraft | None], dict[str, Any]]
    told_again: bool = False


def _taken_embedding(body: Mapping[str, Any]) -> dict[str, Any]:
    if body.get("encoding_format") not in (None, "float"):
        why = "encoding_format: the vectors in the files of a batch are numbers."
        raise bad_request(why, "encoding_format", "unsupported-parameter")
    return taken_embedding(body, EmbeddingsRequest)


def _taken_response(body: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("previous_response_id", "conversation", "background"):
        if body.get(name):
            why = f"{name}: the requests of a batch stand each for itself, and run in the background anyway."
            raise bad_request(why, name, "unsupported-parameter")
    return taken_response(body)


def _draft_of_response(request: ResponseRequest, parse: Parse) -> TaskDraft:
    expect_coherent(request)
    items = input_items(request.input, parse)
    if references(items):
        why = "input: a request of a batch cannot refer to items of earlier responses."
        raise bad_request(why, "input", "unsupported-parameter")
    return draft_of_response(request, items, {}, NOTHING_EARLIER, MOST_REQUEST_BYTES)


def _response(view: TaskView, draft: TaskDraft | None) -> dict[str, Any]:
    assert draft is not None
    return response(turn_of_draft(draft), view)


def _draft_of_completion(request: CompletionRequest, _: Parse) -> TaskDraft:
    return _only(drafts_of_completion(request), "prompt")


def _completion(view: TaskView, draft: TaskDraft | None) -> dict[str, Any]:
    assert draft is not None
    assert isinstance(draft.options, CompletionRequest)
    return text_completion(draft.options, [view])


def _only(drafts: Sequence[TaskDraft], field: str) -> TaskDraft:
    if len(drafts) != 1:
        raise bad_request(f"{field}: a line of a batch is one task; give one.", field, "unsupported-parameter")
    return drafts[0]


def _vectors(view: TaskView, _: TaskDraft | None) -> dict[str, Any]:
    tokens = usage(view)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": json.loads(in_numbers(vector))}
            for place, vector in enumerate(view.embeddings)
        ],
        "model": model_name(view),
        "usage": {name: tokens[name] for name in ("prompt_tokens", "total_tokens")},
        "headrace": provenance(view),
    }


ENDPOINTS: Final[Mapping[str, BatchEndpoint]] = {
    "/v1/chat/completions": BatchEndpoint(
        taken, ChatCompletionRequest, lambda request, _: draft_of_chat(request), lambda view, _: completion(view)
    ),
    "/v1/responses": BatchEndpoint(_taken_response, ResponseRequest, _draft_of_response, _response, told_again=True),
    "/v1/completions": BatchEndpoint(
        taken_completion, CompletionRequest, _draft_of_completion, _completion, told_again=True
    ),
    "/v1/embeddings": BatchEndpoint(
        _taken_embedding, EmbeddingsRequest, lambda request, _: draft_of_embeddings(request), _vectors
    ),
}


def taken_in_batch(endpoint: BatchEndpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a line for `endpoint.request`, in the batch lane. Raises Refusal for what a batch cannot do."""
    if body.get("stream"):
        raise bad_request("A request of a batch cannot be streamed.", "stream", "unsupported-parameter")
    if body.get("priority") not in (None, Lane.BATCH):
        why = "A request of a batch runs in the batch lane: leave priority out."
        raise bad_request(why, "priority", "unsupported-parameter")
    return endpoint.taken({**body, "priority": Lane.BATCH})
