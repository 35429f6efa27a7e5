"""Requests for vectors of texts: the bodies of POST /v1/embeddings and of a task with the operation `embed`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal

from headrace_contracts.cargo import MOST_INPUTS, fitting_vectors
from headrace_contracts.content import plain
from headrace_contracts.events import Lane, ModelOperation, Options
from pydantic import BaseModel, ConfigDict, Field, RootModel

from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.messages import without_neutral
from headrace_intake.decide.options import Labels, Name, SubmitOptions
from headrace_intake.decide.provider_options import ProviderOptions, extra_of
from headrace_intake.decide.refusals import Refusal, bad_request
from headrace_intake.decide.tasks import TaskRequest

DEFAULT_KIND: Final = "embedding"

_OF_ANSWERS: Final = frozenset({"max_tokens", "temperature", "top_p", "stop", "seed", "stream"})
"""Fields that say how an answer is written: there is none."""
_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {"stream": (False,)}


def _without_answers(schema: dict[str, Any]) -> None:
    for name in _OF_ANSWERS:
        schema["properties"].pop(name, None)


Texts = str | Annotated[list[str], Field(min_length=1)]
Dimensions = Annotated[int, Field(ge=1, le=100_000)]


class EmbedFields(SubmitOptions):
    """What every request for vectors has."""

    model_config = ConfigDict(json_schema_extra=_without_answers)

    model: Name | None = None
    input: Texts
    dimensions: Dimensions | None = None
    provider_options: ProviderOptions | None = None


class EmbeddingsRequest(EmbedFields):
    """A request as OpenAI's clients write it, after `taken_embedding` has removed what has no effect."""

    model: Name
    encoding_format: Literal["float", "base64"] = "float"
    metadata: Labels | None = None


class EmbedTaskRequest(EmbedFields):
    """A task of the tasks API with the operation `embed`."""

    operation: Literal["embed"]
    labels: Labels | None = None


class AnyTaskRequest(RootModel[TaskRequest | EmbedTaskRequest]):
    """A task of the tasks API."""


def taken_embedding(document: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The body without parameters that have no effect.

    Raises Refusal, naming the parameter, if it requests something unsupported, and for tokens in place of texts.
    """
    known: Collection[str] = model.model_fields.keys() - _OF_ANSWERS
    kept = without_neutral(document, known, _HAPPENS_ANYWAY)
    given = kept.get("input")
    if isinstance(given, list) and any(isinstance(one, int | list) for one in given):
        raise bad_request(
            "input: token ids mean something else to each model: send the texts (in LangChain, "
            "OpenAIEmbeddings(check_embedding_ctx_length=False)).",
            "input",
            "unsupported-parameter",
        )
    if isinstance(given, list) and len(given) > MOST_INPUTS:
        raise bad_request(f"input: there are {len(given)} texts, and may be {MOST_INPUTS}.", "input")
    return kept


def draft_of_embeddings(request: EmbeddingsRequest) -> TaskDraft:
    """The draft of the request. A caller waits for it, so its lane is interactive by default. Raises Refusal."""
    return embed_draft(request, request.priority or Lane.INTERACTIVE, request.metadata)


def draft_of_embed_task(request: EmbedTaskRequest) -> TaskDraft:
    """The draft of the request. Raises Refusal."""
    return embed_draft(request, request.priority, request.labels)


def embed_draft(request: EmbedFields, lane: Lane | None, labels: Mapping[str, str] | None = None) -> TaskDraft:
    """A task for vectors. Raises Refusal for an empty text, and for more vectors than an answer holds."""
    role, model = designation(request.model, request.role)
    inputs = [request.input] if isinstance(request.input, str) else request.input
    length = request.dimensions
    if not all(inputs):
        raise bad_request("input: a text is empty.", "input")
    if length is not None and len(inputs) > (fit := fitting_vectors(length)):
        why = f"{len(inputs)} vectors of {length} numbers do not fit into an answer: send at most {fit} texts at once"
        raise Refusal(413, "answer_too_large", f"input: {why}.", "input")
    return TaskDraft(
        options=request,
        messages=(),
        role=role,
        model=model,
        kind=request.kind or DEFAULT_KIND,
        lane=lane,
        json=False,
        operation=ModelOperation.EMBED,
        asked=Options(
            inputs=tuple(map(plain, inputs)),
            dimensions=length,
            extra=extra_of(request.provider_options, model=model, preferred_provider=request.preferred_provider),
        ),
        allow_cached=request.allow_cached is not False,
        labels=dict(labels or {}),
    )
