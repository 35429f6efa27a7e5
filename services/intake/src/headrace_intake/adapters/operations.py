"""What intake's HTTP API offers, for its OpenAPI document: each route with the model that validates its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from headrace_runtime.openapi import ApiOperation, Parameter
from headrace_runtime.problems import ErrorShape

from headrace_intake.adapters.batch_operations import batch_operations
from headrace_intake.adapters.ollama import MANAGED, NDJSON
from headrace_intake.decide.anthropic.request import HARMLESS as ANTHROPIC_HARMLESS
from headrace_intake.decide.anthropic.request import MessagesRequest
from headrace_intake.decide.chat import HARMLESS, ChatCompletionRequest
from headrace_intake.decide.completions import CompletionRequest
from headrace_intake.decide.embeddings import AnyTaskRequest, EmbeddingsRequest
from headrace_intake.decide.keys import KeyRequest
from headrace_intake.decide.moderations import ModerationRequest
from headrace_intake.decide.ollama.options import TAKEN
from headrace_intake.decide.ollama.requests import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
)
from headrace_intake.decide.on_disconnect import HEADER as ON_DISCONNECT
from headrace_intake.decide.on_disconnect import OnDisconnect
from headrace_intake.decide.options import HEADER_FIELDS, HEADER_PREFIX
from headrace_intake.decide.pages import LARGEST_LIMIT, STATUSES
from headrace_intake.decide.preferences import PreferencesIn
from headrace_intake.decide.responses.conversations import AddedItems, ConversationChange, ConversationRequest
from headrace_intake.decide.responses.listing import MOST_LISTED
from headrace_intake.decide.responses.request import UNREAD, ResponseRequest

ABOUT: Final = "Tasks for models, in the forms of several APIs, preferences and API keys."

_SSE: Final = "text/event-stream"


def _whole_number(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most}


_USER: Final = Parameter("user", "Of one user; without it, of the tenant.")
_KEY: Final = Parameter("Idempotency-Key", "The same key with the same body is the same task.", "header")
_OPTIONS: Final = tuple(
    Parameter(
        HEADER_PREFIX + "-".join(word.capitalize() for word in name.split("_")),
        f"As `{name}` in the body.",
        "header",
    )
    for name in HEADER_FIELDS
)
_HANG_UP: Final = Parameter(
    ON_DISCONNECT,
    "What becomes of the task when you hang up.",
    "header",
    {"type": "string", "enum": list(OnDisconnect)},
)
_SUBMITTING: Final = (_KEY, _HANG_UP, *_OPTIONS)
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_PAGE: Final = (
    Parameter("limit", "Most items in the answer.", "query", _whole_number(MOST_LISTED)),
    Parameter("order", "By time.", "query", {"type": "string", "enum": ["asc", "desc"]}),
    Parameter("after", "Items after this one."),
    Parameter("before", "Items before this one."),
)
_CONVERSATION: Final = "/v1/conversations/{id}"
_LIST: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "status": ("Tasks in this state.", {"type": "string", "enum": list(STATUSES)}),
    "role": ("Tasks for this role.", {"type": "string"}),
    "kind": ("Tasks of this kind.", {"type": "string"}),
    "session": ("Tasks of this session.", {"type": "string"}),
    "user": ("Tasks of this user.", {"type": "string"}),
    "since": ("Submitted at or after this time (RFC 3339, or milliseconds since the epoch).", {"type": "string"}),
    "until": ("Submitted before this time.", {"type": "string"}),
    "limit": ("Most tasks in the answer.", _whole_number(LARGEST_LIMIT)),
    "cursor": ("`next` of the page before.", {"type": "string"}),
}

_OWN: Final = (
    ApiOperation(
        "POST",
        "/v1/tasks",
        "Submit a task",
        body=AnyTaskRequest,
        parameters=(
            _KEY,
            _HANG_UP,
            Parameter("Prefer", "`wait=30` waits this many seconds for the end.", "header"),
            *_OPTIONS,
        ),
        answers={200: "The task has ended.", 202: "It is on disk and will run."},
    ),
    ApiOperation(
        "GET",
        "/v1/tasks",
        "List tasks, the newest first",
        parameters=tuple(Parameter(name, about, "query", schema) for name, (about, schema) in _LIST.items()),
        answers={200: "A page of tasks."},
    ),
    ApiOperation("GET", "/v1/tasks/{id}", "One task, with its answer", answers={200: "The task."}),
    ApiOperation(
        "DELETE",
        "/v1/tasks/{id}",
        "Cancel a task",
        parameters=(Parameter("reason", "Kept with the task."),),
        answers={200: "It had ended.", 202: "The cancellation is on disk."},
    ),
    ApiOperation(
        "GET",
        "/v1/tasks/{id}/events",
        "The answer of a task as it is written",
        parameters=(Parameter("Last-Event-ID", "Go on after this event.", "header"),),
        answers={200: "Server-sent events.", 204: "There is nothing more."},
        content=(_SSE,),
    ),
    ApiOperation("GET", "/v1/preferences", "What a tenant or a user demands", parameters=(_USER,)),
    ApiOperation(
        "PUT", "/v1/preferences", "Replace what they demand", body=PreferencesIn, parameters=(_USER,),
        scope="preferences (tasks, to demand more for a user)",
    ),
    ApiOperation(
        "DELETE", "/v1/preferences", "Demand nothing", parameters=(_USER,), answers={204: "Removed."}, content=(),
        scope="preferences (tasks, where nothing is lowered)",
    ),
    ApiOperation(
        "POST", "/v1/keys", "Make an API key", body=KeyRequest, answers={201: "The key, shown this once."},
        scope="admin",
    ),
    ApiOperation(
        "GET", "/v1/keys", "List API keys", parameters=(Parameter("tenant", "Of this tenant only."),), scope="admin"
    ),
    ApiOperation(
        "DELETE", "/v1/keys/{id}", "Revoke an API key", answers={204: "Revoked."}, content=(), scope="admin"
    ),
)  # fmt: skip

_OPENAI: Final = (
    ApiOperation(
        "POST",
        "/v1/chat/completions",
        "A chat completion, as OpenAI's",
        body=ChatCompletionRequest,
        ignored=HARMLESS,
        parameters=_SUBMITTING,
        answers={200: "The completion, or its chunks."},
        content=("application/json", _SSE),
        errors=ErrorShape.OPENAI,
    ),
    ApiOperation("GET", "/v1/models", "Models that can be asked now", errors=ErrorShape.OPENAI),
    ApiOperation("GET", "/v1/models/{model:.+}", "One model", errors=ErrorShape.OPENAI),
    ApiOperation(
        "POST", "/v1/completions", "Text completions, as OpenAI's former ones", body=CompletionRequest,
        parameters=_SUBMITTING, content=("application/json", _SSE), errors=ErrorShape.OPENAI,
    ),
    ApiOperation(
        "POST", "/v1/embeddings", "Vectors of texts", body=EmbeddingsRequest, parameters=_SUBMITTING,
        errors=ErrorShape.OPENAI,
    ),
    *batch_operations(_KEY, _OPTIONS),
    ApiOperation(
        "POST", "/v1/moderations", "What is harmful in texts, by the policy's role `moderation`",
        body=ModerationRequest, parameters=_SUBMITTING, errors=ErrorShape.OPENAI,
    ),
    ApiOperation(
        "POST", "/v1/responses", "A response, as OpenAI's", body=ResponseRequest, parameters=_SUBMITTING,
        ignored=UNREAD, answers={200: "The response, queued if it is made in the background, or its events."},
        content=("application/json", _SSE), errors=ErrorShape.OPENAI,
    ),
    ApiOperation(
        "GET", "/v1/responses/{id}", "A stored response, or its events",
        parameters=(
            Parameter("stream", "Its events.", "query", {"type": "boolean"}),
            Parameter("starting_after", "Only events after this one.", "query", {"type": "integer", "minimum": 0}),
            Parameter("include", "Taken, and without effect here.", "query", _TEXTS),
            Parameter("include[]", "The same.", "query", _TEXTS),
        ),
        content=("application/json", _SSE), errors=ErrorShape.OPENAI,
    ),
    ApiOperation("DELETE", "/v1/responses/{id}", "Erase a stored response", errors=ErrorShape.OPENAI),
    ApiOperation("POST", "/v1/responses/{id}/cancel", "Cancel a response of the background", errors=ErrorShape.OPENAI),
    ApiOperation(
        "GET", "/v1/responses/{id}/input_items", "What a response was made from", parameters=_PAGE,
        errors=ErrorShape.OPENAI,
    ),
    ApiOperation(
        "POST", "/v1/conversations", "Begin a conversation", body=ConversationRequest, errors=ErrorShape.OPENAI
    ),
    ApiOperation("GET", _CONVERSATION, "A conversation", errors=ErrorShape.OPENAI),
    ApiOperation("POST", _CONVERSATION, "Change its metadata", body=ConversationChange, errors=ErrorShape.OPENAI),
    ApiOperation("DELETE", _CONVERSATION, "Erase a conversation", errors=ErrorShape.OPENAI),
    ApiOperation("GET", _CONVERSATION + "/items", "Its items", parameters=_PAGE, errors=ErrorShape.OPENAI),
    ApiOperation("POST", _CONVERSATION + "/items", "Add items", body=AddedItems, errors=ErrorShape.OPENAI),
    ApiOperation("GET", _CONVERSATION + "/items/{item_id}", "One item", errors=ErrorShape.OPENAI),
    ApiOperation(
        "DELETE", _CONVERSATION + "/items/{item_id}", "Refused: an item stays with its response",
        errors=ErrorShape.OPENAI,
    ),
)  # fmt: skip

_ANTHROPIC: Final = (
    ApiOperation(
        "POST", "/v1/messages", "A message, as Anthropic's", body=MessagesRequest, ignored=ANTHROPIC_HARMLESS,
        parameters=_SUBMITTING,
        content=("application/json", _SSE), errors=ErrorShape.ANTHROPIC,
    ),
    ApiOperation(
        "POST", "/v1/messages/count_tokens", "About how many tokens a message has", body=MessagesRequest,
        ignored=ANTHROPIC_HARMLESS, errors=ErrorShape.ANTHROPIC,
    ),
)  # fmt: skip

_OLLAMA: Final = (
    ApiOperation(
        "POST", "/api/chat", "A chat, as Ollama's", body=OllamaChatRequest, parameters=_SUBMITTING,
        ignored=TAKEN,
        content=(NDJSON, "application/json"), errors=ErrorShape.OLLAMA,
    ),
    ApiOperation(
        "POST", "/api/generate", "A text, as Ollama's", body=OllamaGenerateRequest, parameters=_SUBMITTING,
        ignored=TAKEN,
        content=(NDJSON, "application/json"), errors=ErrorShape.OLLAMA,
    ),
    ApiOperation(
        "POST", "/api/embed", "Vectors of texts", body=OllamaEmbedRequest, parameters=_SUBMITTING,
        ignored=TAKEN,
        errors=ErrorShape.OLLAMA,
    ),
    ApiOperation(
        "POST", "/api/embeddings", "The vector of one text", body=OllamaEmbeddingsRequest, parameters=_SUBMITTING,
        ignored=TAKEN,
        errors=ErrorShape.OLLAMA,
    ),
    ApiOperation("GET", "/api/tags", "The models of all nodes", errors=ErrorShape.OLLAMA),
    ApiOperation("GET", "/api/ps", "The models in memory", errors=ErrorShape.OLLAMA),
    ApiOperation("POST", "/api/show", "What is known of a model", body=OllamaShowRequest, errors=ErrorShape.OLLAMA),
    ApiOperation("GET", "/api/version", "The version of Ollama's API", errors=ErrorShape.OLLAMA),
    *(
        ApiOperation(
            method, f"/api/{path}", "Refused: models are managed on the nodes", answers={}, errors=ErrorShape.OLLAMA
        )
        for method, path in MANAGED
    ),
)  # fmt: skip

OPERATIONS: Final = (*_OWN, *_OPENAI, *_ANTHROPIC, *_OLLAMA)
