"""Files and batches as they are stored, and as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_intake.decide.batches.life import LIVE, WINDOW, BatchStatus

INPUT: Final = "batch"
"""Purpose of a file of requests."""
RESULTS: Final = "batch_output"
"""Purpose of a file of results, those of errors too."""
CHUNK_BYTES: Final = 262_144
"""Size of all chunks of a file but its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file without its content. Times are milliseconds since the epoch."""

    file_id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch. Times are milliseconds since the epoch; None for what has not happened.

    Attributes:
        by_admin: Whether the key that created it may do what an administrator may.
        headers: The X-Headrace-* headers of its creation, which hold for each of its lines.
        output_seconds: How long the files of results are kept; None for as long as others.
        ending: The status that it will have when the files of results are written; None before it comes to that.
        errors: Why its file is no batch, as JSON.
        usage: Tokens of all its tasks, as JSON; None before the end.
        fence: Whoever works on it under a lower number has lost it.
    """

    batch_id: str
    tenant: str
    key_id: str
    by_admin: bool
    idempotency_key: str | None
    digest: str
    endpoint: str
    input_file_id: str
    headers: Mapping[str, str]
    metadata: str | None
    output_seconds: int | None
    status: BatchStatus
    ending: BatchStatus | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    errors: str | None
    total: int
    completed: int
    failed: int
    usage: str | None
    output_file_id: str | None
    error_file_id: str | None
    fence: int

    @property
    def live(self) -> bool:
        """Whether there is still work on it."""
        return self.status in LIVE


def file_document(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at // 1000,
        "expires_at": file.expires_at // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_document(batch: StoredBatch) -> dict[str, Any]:
    """OpenAI's batch object."""
    errors = None if batch.errors is None else {"object": "list", "data": json.loads(batch.errors)}
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": None,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at // 1000,
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": batch.expires_at // 1000,
        "finalizing_at": _seconds(batch.finalizing_at),
        "completed_at": _seconds(batch.completed_at),
        "failed_at": _seconds(batch.failed_at),
        "expired_at": _seconds(batch.expired_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        "cancelled_at": _seconds(batch.cancelled_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": None if batch.usage is None else json.loads(batch.usage),
        "metadata": None if batch.metadata is None else json.loads(batch.metadata),
    }


def page_document(documents: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list."""
    return {
        "object": "list",
        "data": documents,
        "first_id": documents[0]["id"] if documents else None,
        "last_id": documents[-1]["id"] if documents else None,
        "has_more": more,
    }


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
