"""Which client library sends requests to a path, and so has to understand the errors that answer them."""

from __future__ import annotations

import re
from typing import Final

from headrace_runtime.problems import ErrorShape

_OWN: Final = re.compile(r"/v1/(tasks|keys|preferences|skills|costs|budgets)(/|$)")
_ANTHROPIC: Final = re.compile(r"/v1/(messages|complete)(/|$)")
_VERSION_TWICE: Final = re.compile(r"/v1/(v1|api)/")
_WITHOUT_VERSION: Final = re.compile(
    r"/(chat/completions|completions|embeddings|responses|models|files|batches|moderations|messages|tasks)(/|$)"
)


def error_shape(path: str, *, anthropic: bool) -> ErrorShape:
    """The form of errors below a path, whether or not there is anything at it.

    Args:
        anthropic: Whether the request has the header `anthropic-version`, which Anthropic's clients always send.
    """
    if _OWN.match(path):
        return ErrorShape.PROBLEM_DETAILS
    if path.startswith("/api/"):
        return ErrorShape.OLLAMA
    if _ANTHROPIC.match(path) or anthropic:
        return ErrorShape.ANTHROPIC
    if path.startswith("/v1/") or _WITHOUT_VERSION.match(path):
        return ErrorShape.OPENAI
    return ErrorShape.PROBLEM_DETAILS


def nothing_at(path: str) -> str:
    """Why there is nothing at a path, for a person: mostly the client's base URL is wrong."""
    if _VERSION_TWICE.match(path):
        return "There is nothing at this path: it has its prefix twice. Take /v1 off the end of the client's base URL."
    if _WITHOUT_VERSION.match(path):
        return "There is nothing at this path: it begins with /v1. Put /v1 at the end of the client's base URL."
    return "There is nothing at this path. GET /openapi.json lists what there is."
