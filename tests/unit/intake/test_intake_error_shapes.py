"""Errors have the form of the client that sends to a path, also where there is nothing at it."""

from __future__ import annotations

import pytest
from headrace_intake.decide.error_shapes import error_shape, nothing_at
from headrace_runtime.problems import ErrorShape


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", ErrorShape.OPENAI),
        ("/v1/models/llama3.2:3b", ErrorShape.OPENAI),
        ("/v1/responses/resp_1/cancel", ErrorShape.OPENAI),
        ("/v1/audio/speech", ErrorShape.OPENAI),
        ("/v1/vector_stores", ErrorShape.OPENAI),
        ("/v1/tasksome", ErrorShape.OPENAI),
        ("/chat/completions", ErrorShape.OPENAI),
        ("/v1/v1/chat/completions", ErrorShape.OPENAI),
        ("/v1/messages", ErrorShape.ANTHROPIC),
        ("/v1/messages/batches/x", ErrorShape.ANTHROPIC),
        ("/v1/complete", ErrorShape.ANTHROPIC),
        ("/api/chat", ErrorShape.OLLAMA),
        ("/api/blobs/sha256:0", ErrorShape.OLLAMA),
        ("/v1/tasks", ErrorShape.PROBLEM_DETAILS),
        ("/v1/tasks/x/nowhere", ErrorShape.PROBLEM_DETAILS),
        ("/v1/keys/x", ErrorShape.PROBLEM_DETAILS),
        ("/v1/preferences", ErrorShape.PROBLEM_DETAILS),
        ("/", ErrorShape.PROBLEM_DETAILS),
        ("/favicon.ico", ErrorShape.PROBLEM_DETAILS),
    ],
)
def test_the_path_decides(path: str, shape: ErrorShape) -> None:
    assert error_shape(path, anthropic=False) is shape


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/models", ErrorShape.ANTHROPIC),
        ("/v1/files", ErrorShape.ANTHROPIC),
        ("/v1/v1/messages", ErrorShape.ANTHROPIC),
        ("/messages", ErrorShape.ANTHROPIC),
        ("/v1/tasks", ErrorShape.PROBLEM_DETAILS),
        ("/api/chat", ErrorShape.OLLAMA),
    ],
)
def test_anthropics_clients_are_known_by_their_header(path: str, shape: ErrorShape) -> None:
    assert error_shape(path, anthropic=True) is shape


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/v1/messages", "Take /v1 off"),
        ("/v1/api/chat", "Take /v1 off"),
        ("/chat/completions", "Put /v1 at the end"),
        ("/messages", "Put /v1 at the end"),
        ("/models/x", "Put /v1 at the end"),
        ("/v1/audio/speech", "/openapi.json"),
        ("/nowhere", "/openapi.json"),
    ],
)
def test_a_wrong_base_url_is_named(path: str, said: str) -> None:
    assert said in nothing_at(path)
