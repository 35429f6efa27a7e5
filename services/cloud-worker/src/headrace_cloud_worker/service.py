"""The cloud worker: attempts in from work.cloud, run at providers, their ends out."""

from __future__ import annotations

from headrace_contracts.headers import header
from headrace_models.worker.runner import AttemptRunner
from headrace_runtime import tracing
from headrace_runtime.logging import log_context
from headrace_streams.records import Record
from opentelemetry.trace import SpanKind


class CloudWorker:
    """Runs one attempt per record, under the trace and with the task that the record came with."""

    def __init__(self, runner: AttemptRunner) -> None:
        self._runner = runner

    async def handle(self, record: Record) -> None:
        """For the parallel engine; see `AttemptRunner.handle`."""
        task_id = header(record.headers, "ce_subject") or ""
        parent = tracing.extract(record.headers)
        with (
            log_context(task_id=task_id),
            tracing.span("run attempt", {"headrace.task_id": task_id}, parent=parent, kind=SpanKind.CONSUMER),
        ):
            await self._runner.handle(record)


def current_traceparent(_record: Record) -> str | None:
    """The trace context inside the span of an attempt."""
    return header(tracing.inject([]), "traceparent")
