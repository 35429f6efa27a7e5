"""Errors of the HTTP API: RFC 9457 problem details, or the form that the client libraries of a provider's API print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

PROBLEM_JSON: Final = "application/problem+json"


class ErrorShape(StrEnum):
    """The form of an error's body: whose client libraries have to understand it."""

    PROBLEM_DETAILS = "problem details"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


_OPENAI_TYPES: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    422: ("invalid_request_error", None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_ANTHROPIC_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_CODES: Final[Mapping[str, str]] = {
    "context_too_small": "context_length_exceeded",
    "context_too_long": "context_length_exceeded",
    "unknown_model": "model_not_found",
    "model_missing": "model_not_found",
    "model-not-found": "model_not_found",
    "output_blocked": "content_filter",
}
"""Codes that clients act on: LangChain, LlamaIndex and LiteLLM shorten a prompt, or choose another model."""


class Problem(Exception):
    """Raised by a handler to return an error response.

    `kind` is a short stable name for programs (`idempotency-conflict`); `detail` tells a person what is wrong and what
    to do; `extra` holds further members for programs. None of them contains the caller's input.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.extra: Mapping[str, Any] = extra or {}
        self.headers: Mapping[str, str] = headers or {}
        self.param = param

    def to_problem_details(self, instance: str) -> dict[str, Any]:
        """The RFC 9457 document; `instance` is the request id."""
        return {
            **self.extra,
            "type": f"urn:headrace:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:headrace:request:{instance}",
        }

    def to_openai(self) -> dict[str, Any]:
        """The error document that the `openai` packages turn into their exceptions."""
        kind, code = _OPENAI_TYPES.get(self.status, ("server_error" if self.status >= 500 else "api_error", None))
        code = _OPENAI_CODES.get(self.kind) or code or self.kind
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": code}}

    def to_anthropic(self, request_id: str) -> dict[str, Any]:
        """The error document that the `anthropic` packages turn into their exceptions."""
        other = "api_error" if self.status >= 500 else "invalid_request_error"
        error = {"type": _ANTHROPIC_TYPES.get(self.status, other), "message": self.detail}
        return {"type": "error", "error": error, "request_id": request_id}

    def to_ollama(self) -> dict[str, Any]:
        """The error document that the `ollama` packages turn into their exceptions."""
        return {"error": self.detail}


def from_http_exception(error: web.HTTPException) -> Problem:
    """Convert aiohttp's own errors (no such route, wrong method, body too large)."""
    kind = HTTPStatus(error.status).phrase.lower().replace(" ", "-")
    details = {
        404: "There is nothing at this path.",
        405: "This path does not support this method; see the Allow header.",
        413: "The request body is larger than this service accepts.",
    }
    kept = {name: value for name, value in error.headers.items() if name in ("Allow", "Location", "Retry-After")}
    return Problem(error.status, kind, details.get(error.status, f"{error.reason}."), headers=kept)


def internal_error() -> Problem:
    """For unforeseen errors: the response says nothing about them, the log has them under the request id."""
    return Problem(500, "internal-error", "Internal error; the service's log has details under the request id.")


def respond(problem: Problem, shape: ErrorShape, request_id: str) -> web.Response:
    """The problem as a response, in the shape that the path's clients expect."""
    match shape:
        case ErrorShape.OPENAI:
            return web.json_response(problem.to_openai(), status=problem.status, headers=problem.headers)
        case ErrorShape.ANTHROPIC:
            headers = {**problem.headers, "request-id": request_id}
            return web.json_response(problem.to_anthropic(request_id), status=problem.status, headers=headers)
        case ErrorShape.OLLAMA:
            return web.json_response(problem.to_ollama(), status=problem.status, headers=problem.headers)
        case ErrorShape.PROBLEM_DETAILS:
            return web.Response(
                text=json.dumps(problem.to_problem_details(request_id)),
                status=problem.status,
                headers=problem.headers,
                content_type=PROBLEM_JSON,
            )
