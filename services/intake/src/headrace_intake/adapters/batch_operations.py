"""What the APIs of files and batches offer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from headrace_runtime.openapi import ApiOperation, Parameter
from headrace_runtime.problems import ErrorShape

from headrace_intake.decide.batches.requests import MOST_BATCHES_LISTED, MOST_FILES_LISTED, BatchRequest

_AFTER: Final = Parameter("after", "Behind this id, the last one of the page before.")


def _limit(most: int) -> Parameter:
    schema: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": most}
    return Parameter("limit", "Most of them in the answer.", "query", schema)


def batch_operations(idempotency: Parameter, options: tuple[Parameter, ...]) -> tuple[ApiOperation, ...]:
    """The operations.

    Args:
        idempotency: The header that makes a request repeatable.
        options: Headers for what a task may ask.
    """
    return (
        ApiOperation(
            "POST", "/v1/files", "Upload a file of requests: `purpose` (`batch`), `file`, `expires_after[seconds]`",
            form="multipart/form-data", answers={200: "The file."}, errors=ErrorShape.OPENAI,
        ),
        ApiOperation(
            "GET", "/v1/files", "List files",
            parameters=(
                _limit(MOST_FILES_LISTED),
                _AFTER,
                Parameter("order", "By time.", "query", {"type": "string", "enum": ["asc", "desc"]}),
                Parameter("purpose", "Files with this purpose."),
            ),
            answers={200: "A page of files."}, errors=ErrorShape.OPENAI,
        ),
        ApiOperation("GET", "/v1/files/{id}", "One file", answers={200: "The file."}, errors=ErrorShape.OPENAI),
        ApiOperation("DELETE", "/v1/files/{id}", "Erase a file", answers={200: "Erased."}, errors=ErrorShape.OPENAI),
        ApiOperation(
            "GET", "/v1/files/{id}/content", "The content of a file", answers={200: "As it was sent."},
            content=("application/octet-stream",), errors=ErrorShape.OPENAI,
        ),
        ApiOperation(
            "POST", "/v1/batches", "Run a file of requests within 24 hours", body=BatchRequest,
            parameters=(idempotency, *options), answers={200: "The batch."}, errors=ErrorShape.OPENAI,
        ),
        ApiOperation(
            "GET", "/v1/batches", "List batches, the newest first", parameters=(_limit(MOST_BATCHES_LISTED), _AFTER),
            answers={200: "A page of batches."}, errors=ErrorShape.OPENAI,
        ),
        ApiOperation("GET", "/v1/batches/{id}", "One batch", answers={200: "The batch."}, errors=ErrorShape.OPENAI),
        ApiOperation(
            "POST", "/v1/batches/{id}/cancel", "Cancel a batch", answers={200: "The batch."}, errors=ErrorShape.OPENAI
        ),
    )  # fmt: skip
