"""A service's HTTP API as an OpenAPI 3.1 document, made from the models that validate its requests.

OPERATIONS = (ApiOperation("POST", "/v1/tasks", "Submit a task", body=TaskRequest, answers={202: "Accepted."}), ...)
add_reference(app, "Headrace", settings.release(), "Tasks for models.", OPERATIONS)  # openapi_page
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headrace_runtime.problems import PROBLEM_JSON, ErrorShape

_REF: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_TEXT: Final[Mapping[str, Any]] = {"type": "string"}
_ERRORS: Final[Mapping[ErrorShape, tuple[str, str, dict[str, Any]]]] = {
    ErrorShape.PROBLEM_DETAILS: (
        "ProblemDetails",
        PROBLEM_JSON,
        {
            "description": "RFC 9457 problem details, with further members for some kinds.",
            "type": "object",
            "required": ["type", "title", "status", "detail", "instance"],
            "properties": {
                "type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT, "instance": _TEXT,
            },
        },
    ),
    ErrorShape.OPENAI: (
        "OpenAIError",
        "application/json",
        {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": _TEXT,
                        "type": _TEXT,
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                }
            },
        },
    ),
    ErrorShape.ANTHROPIC: (
        "AnthropicError",
        "application/json",
        {
            "type": "object",
            "required": ["type", "error", "request_id"],
            "properties": {
                "type": {"const": "error"},
                "error": {
                    "type": "object", "required": ["type", "message"], "properties": {"type": _TEXT, "message": _TEXT},
                },
                "request_id": _TEXT,
            },
        },
    ),
    ErrorShape.OLLAMA: (
        "OllamaError",
        "application/json",
        {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or a header.

    Attributes:
        where: "query" or "header".
    """

    name: str
    about: str
    where: str = "query"
    schema: Mapping[str, Any] = field(default_factory=lambda: _TEXT)


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """One method of one path.

    Attributes:
        path: As the router has it: `/v1/tasks/{id}`, with a pattern where it has one.
        body: The model that validates the body; None if there is none.
        form: Media type of a body that is not JSON.
        ignored: Fields of the body that are taken, and mean nothing.
        answers: What the statuses of success mean.
        content: Media types of the answers; none for answers without a body.
        scope: What the API key must allow; None for no key.
        errors: Form of all other answers.
    """

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    form: str | None = None
    parameters: tuple[Parameter, ...] = ()
    ignored: frozenset[str] = frozenset()
    answers: Mapping[int, str] = field(default_factory=lambda: {200: "Done."})
    content: tuple[str, ...] = ("application/json",)
    scope: str | None = "tasks"
    errors: ErrorShape = ErrorShape.PROBLEM_DETAILS

    @property
    def documented_path(self) -> str:
        """The path with the names of its parameters alone."""
        return _PARAMETER.sub(r"{\1}", self.path)

    @property
    def group(self) -> str:
        """The first part of the path that is no version: what belongs together."""
        return next(part for part in self.path.split("/") if part not in ("", "v1"))


def document_of(title: str, version: str, about: str, operations: Sequence[ApiOperation]) -> dict[str, Any]:
    """The OpenAPI document. Every operation may also answer with an error in its form."""
    bodies = list(dict.fromkeys(each.body for each in operations if each.body is not None))
    references, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    schemas: dict[str, Any] = dict(definitions.get("$defs", {}))
    for shape in sorted({each.errors for each in operations}):
        name, _, schema = _ERRORS[shape]
        schemas[name] = schema
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        body = None if each.body is None else references[each.body, "validation"]
        paths.setdefault(each.documented_path, {})[each.method.lower()] = _operation(each, body)
        if body is not None and each.ignored:
            schema = schemas[body["$ref"].rsplit("/", 1)[1]]
            taken = {name: {"description": "Taken, and without effect here."} for name in sorted(each.ignored)}
            schema["properties"] = {**taken, **schema.get("properties", {})}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": about},
        "tags": [{"name": name} for name in dict.fromkeys(each.group for each in operations)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, hr_…"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _operation(operation: ApiOperation, body: Any) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    parameters += [
        {"name": each.name, "in": each.where, "required": False, "description": each.about, "schema": dict(each.schema)}
        for each in operation.parameters
    ]
    made: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "tags": [operation.group],
        "parameters": parameters,
        "responses": {
            **{str(status): _answer(about, operation.content) for status, about in operation.answers.items()},
            "default": _error(operation.errors),
        },
        "security": [] if operation.scope is None else [{"bearer": []}, {"header": []}],
    }
    if operation.scope is not None:
        made["description"] = f"Needs a key with the scope `{operation.scope}`."
    if body is not None or operation.form is not None:
        media = operation.form or "application/json"
        content = {media: {"schema": body if body is not None else {"type": "object"}}}
        made["requestBody"] = {"required": True, "content": content}
    return made


def _answer(about: str, content: Sequence[str]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": about}
    if content:
        described["content"] = {
            media: {"schema": {"type": "object"} if media == "application/json" else dict(_TEXT)} for media in content
        }
    return described


def _error(shape: ErrorShape) -> dict[str, Any]:
    name, media, _ = _ERRORS[shape]
    return {"description": "What is wrong.", "content": {media: {"schema": {"$ref": _REF.format(model=name)}}}}


def _identifier(operation: ApiOperation) -> str:
    words = re.findall(r"[a-z0-9_]+", operation.documented_path.removeprefix("/v1").lower())
    return "_".join([operation.method.lower(), *words])
