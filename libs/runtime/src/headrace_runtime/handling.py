"""Handles a record within its trace, and with its task id in the logs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace_contracts.headers import header
from headrace_streams.records import Record
from opentelemetry.trace import SpanKind

from headrace_runtime import tracing
from headrace_runtime.logging import log_context

RecordHandler = Callable[[Record], Awaitable[None]]


def in_its_trace(what: str, handle: RecordHandler) -> RecordHandler:
    """`handle` within a span named `what`, a child of the record's own, and with the task id in every log line."""

    async def handle_in_trace(record: Record) -> None:
        task_id = header(record.headers, "ce_subject") or ""
        parent = tracing.extract(record.headers)
        with (
            log_context(task_id=task_id),
            tracing.span(what, {"headrace.task_id": task_id}, parent=parent, kind=SpanKind.CONSUMER),
        ):
            await handle(record)

    return handle_in_trace


def current_traceparent(_record: Record) -> str | None:
    """The trace context of the span in which a record is being handled."""
    return header(tracing.inject([]), "traceparent")
